"""The images that candidates train on and are measured on: on the device, or streamed to it.

Both kinds give the same batches: what an epoch uses is drawn from trial and epoch alone.

N images of H x W x C, B = batch size, S = steps of an epoch, `axes` = the leading axes of what
differs between lanes: devices, then lanes per device if there are several.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from jointnas_jax.data.augment import EpochPlan
from jointnas_jax.data.source import Images, Split
from jointnas_jax.errors import DataError, StorageError
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.step import PixelStats

# Bytes of the images that are sent to the devices at once, and how many such chunks are read ahead.
_CHUNK_BYTES = 64 * 2**20
_AHEAD = 2
_EVAL_BATCH = 256
# Images of a dataset on disk that its pixel statistics are taken of.
_SAMPLE = 4096


class Part(NamedTuple):
    """The part of each batch that one process streams to its devices.

    Attributes:
      number: which part, from 0.
      parts: number of parts, all of them alike.
      devices: number of devices that share a batch.
    """

    number: int = 0
    parts: int = 1
    devices: int = 1

    def of(self, batch: int) -> slice:
        """Positions in a batch of so many images, a multiple of the devices."""
        return slice(self.number * batch // self.parts, (self.number + 1) * batch // self.parts)


_WHOLE = Part()


@flax.struct.dataclass
class TrainData:
    """Training images on the device, and which of them belong to the split in use.

    Attributes:
      images: `uint8[N, H, W, C]`.
      labels: `int32[N]`.
      members: `bool[N]`, the images to train on. A mask rather than a subset, so that training with
        and without the validation images is the same program.
      stats: pixel statistics for normalisation.
    """

    images: jax.Array
    labels: jax.Array
    members: jax.Array
    stats: PixelStats

    def chunks(self, plan: EpochPlan) -> Iterator[tuple]:
        """Yields what the program of an epoch is called with: all of it at once."""
        yield self.images, self.labels, plan, plan.steps


class StreamedTrainData:
    """Training images that are read while candidates train.

    Attributes:
      members: as in `TrainData`.
      stats: likewise.
    """

    def __init__(self, source: Images, members: np.ndarray, stats: PixelStats, part: Part = _WHOLE):
        """Reads one image, for the shape; later the part of each batch."""
        self.members, self.stats = members, stats
        self._source, self._part = source, part
        self._image_bytes = source.read(np.zeros(1, int))[0].nbytes

    def chunks(self, plan: EpochPlan) -> Iterator[tuple]:
        """Yields what the program of an epoch is called with, some steps at a time.

        In a chunk of K steps every lane has the images of its own steps, `[*axes, K, B, ...]`, and
        the plan names no images. A last chunk of fewer steps is filled up and not run to its end.
        """
        plan = jax.device_get(plan)
        *axes, rows, batch = plan.images.shape
        together = _CHUNK_BYTES // (self._image_bytes * batch * int(np.prod(axes)))
        together = min(max(together, 1), rows)

        def read(start: int) -> tuple:
            steps = np.arange(start, start + together)
            cut = lambda values: np.take(values, steps, axis=len(axes), mode="clip")
            part = jax.tree.map(cut, plan.replace(steps=None))
            mine = part.images[..., self._part.of(batch)]
            images, labels = _read_again(self._source, mine)
            part = part.replace(steps=plan.steps, images=None)
            return images, labels, part, np.minimum(together, plan.steps - start)

        yield from ahead(read, range(0, int(plan.steps.max()), together))


@flax.struct.dataclass
class EvalData:
    """Images to measure accuracy on, in batches of equal shape.

    Attributes:
      batches: pairs `uint8[B, H, W, C]`, `int32[B]`; a label of -1 marks padding.
      count: images without padding.
      stats: pixel statistics for normalisation.
    """

    batches: tuple[tuple[jax.Array, jax.Array], ...]
    count: int = flax.struct.field(pytree_node=False)
    stats: PixelStats = None

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        stats: PixelStats,
        batch_size: int = _EVAL_BATCH,
    ) -> "EvalData":
        """Cuts `uint8[N, H, W, C]` and `int32[N]` into padded batches."""
        starts = range(0, len(labels), batch_size)
        batches = (
            _padded(images[i : i + batch_size], labels[i : i + batch_size], batch_size)
            for i in starts
        )
        return cls(tuple(batches), len(labels), stats)


class StreamedEvalData:
    """Images to measure accuracy on, read each time.

    Attributes:
      count: images.
      stats: pixel statistics for normalisation.
    """

    def __init__(self, source: Images, indices: np.ndarray, stats: PixelStats, part: Part = _WHOLE):
        """Reads nothing yet; later the part of each batch."""
        self.count, self.stats = len(indices), stats
        self._source, self._indices, self._part = source, indices, part

    @property
    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """As in `EvalData`."""
        batch = -(-_EVAL_BATCH // self._part.devices) * self._part.devices
        mine = self._part.of(batch)

        def read(start: int) -> tuple[np.ndarray, np.ndarray]:
            chosen = self._indices[start : start + batch][mine]
            # One image at least, for the shape.
            images, labels = _read_again(self._source, chosen if chosen.size else self._indices[:1])
            return _padded(images[: chosen.size], labels[: chosen.size], mine.stop - mine.start)

        return ahead(read, range(0, self.count, batch))


def feeds(
    train: Images, validation: np.ndarray, test: Images, devices: Sequence[jax.Device]
) -> dict[bool, tuple[TrainData | StreamedTrainData, EvalData | StreamedEvalData]]:
    """Training and evaluation data of the search (False) and of final trainings (True).

    The search trains without the validation images and measures on them, a final training trains
    on all and measures on the test split.

    Args:
      train: the training split; decoded images go to the devices, others are streamed.
      validation: `bool[N]`, images of it kept for validation.
      test: the test split.
      devices: to put images on, or to stream them to; where some are of other processes, each
        process streams its part of every batch.
    """
    stats = pixel_stats(_sample(train))
    everything = np.ones_like(validation)
    if not isinstance(train, Split):
        processes = sorted({device.process_index for device in devices})
        part = _WHOLE
        if len(processes) > 1:
            part = Part(processes.index(jax.process_index()), len(processes), len(devices))
        held_out = StreamedEvalData(train, np.flatnonzero(validation), stats, part)
        return {
            False: (StreamedTrainData(train, ~validation, stats, part), held_out),
            True: (
                StreamedTrainData(train, everything, stats, part),
                StreamedEvalData(test, np.arange(len(test)), stats, part),
            ),
        }
    data = replicate(TrainData(train.images, train.labels, ~validation, stats), devices)
    held_out = EvalData.of(train.images[validation], train.labels[validation], stats)
    return {
        False: (data, replicate(held_out, devices)),
        True: (
            data.replace(members=replicate(everything, devices)),
            replicate(EvalData.of(test.images, test.labels, stats), devices),
        ),
    }


def _sample(train: Images) -> np.ndarray:
    """Images to take pixel statistics of: all, or a random sample of those on disk."""
    if isinstance(train, Split):
        return train.images
    chosen = np.random.default_rng(0).permutation(len(train))[:_SAMPLE]
    return train.read(np.sort(chosen))[0]


def pixel_stats(images: np.ndarray) -> PixelStats:
    """Mean and deviation per channel of `uint8[N, H, W, C]`, exact, from the 256 counts."""
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        means.append(np.average(values, weights=counts))
        deviations.append(np.sqrt(np.average((values - means[-1]) ** 2, weights=counts)))
    # A constant channel stays constant.
    return PixelStats(np.float32(means), np.maximum(np.float32(deviations), np.float32(1.0)))


def _read_again(source: Images, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads images that were sound before anything trained: no candidate fails by them now."""
    try:
        return source.read(indices)
    except DataError as error:
        raise StorageError(f"{error}; when it can again, the same command goes on") from error


def _padded(images: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    missing = size - len(labels)
    images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    return images, np.concatenate([labels, np.full(missing, -1, labels.dtype)])


def ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields `function(item)` for all items in order, computed in a thread before it is needed."""
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
