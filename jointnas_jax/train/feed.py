"""Images for training and for measuring accuracy: on the device, or streamed to it.

Both give the same batches: the plan of an epoch depends on trial and epoch alone.

N images of H x W x C, B = batch size, S = steps of an epoch, `axes` = leading axes of the lanes:
devices, then lanes per device if there are several.
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
from jointnas_jax.train.recipe_arrays import AnyArray
from jointnas_jax.train.step import PixelStats

# Bytes of images that are sent to the devices at once, and number of such chunks read ahead.
_CHUNK_BYTES = 64 * 2**20
_AHEAD = 2
_EVAL_BATCH = 256
# Images of a dataset on disk for its pixel statistics.
_SAMPLE = 4096


class Chunk(NamedTuple):
    """Inputs of some steps of an epoch; see `EpochInputs`."""

    images: AnyArray
    labels: AnyArray
    plan: EpochPlan
    todo: AnyArray | np.int32


class Part(NamedTuple):
    """The part of each batch that one process streams to its devices."""

    number: int = 0  # of the part, from 0
    parts: int = 1  # number of equal parts
    devices: int = 1  # number of devices that share a batch

    def of(self, batch: int) -> slice:
        """Positions in a batch of so many images, a multiple of the devices."""
        return slice(self.number * batch // self.parts, (self.number + 1) * batch // self.parts)


_WHOLE = Part()


class TrainData(flax.struct.PyTreeNode):
    """Training images on the device, with a mask of the images to train on.

    A mask rather than a subset: with and without the validation images it is the same program.
    """

    images: AnyArray  # uint8[N, H, W, C]
    labels: AnyArray  # int32[N]
    members: AnyArray  # bool[N]
    stats: PixelStats

    def chunks(self, plan: EpochPlan) -> Iterator[Chunk]:
        """Yields the whole epoch as one chunk."""
        yield Chunk(images=self.images, labels=self.labels, plan=plan, todo=plan.steps)


class StreamedTrainData:
    """Training images that are read while candidates train; see `TrainData`."""

    def __init__(self, source: Images, members: np.ndarray, stats: PixelStats, part: Part = _WHOLE):
        self.members = members
        self.stats = stats
        self._source = source
        self._part = part
        self._image_bytes = source.read(np.zeros(1, int))[0].nbytes

    def chunks(self, plan: EpochPlan) -> Iterator[Chunk]:
        """Yields chunks of K steps.

        Every lane has the images of its steps, `[*axes, K, B, ...]`, and the plan has no `images`.
        A last chunk of fewer steps is filled up and not run to its end.
        """
        plan = jax.device_get(plan)
        *axes, rows, batch = plan.images.shape
        together = _CHUNK_BYTES // (self._image_bytes * batch * int(np.prod(axes)))
        together = min(max(together, 1), rows)

        def read(start: int) -> Chunk:
            steps = np.arange(start, start + together)
            cut = lambda values: np.take(values, steps, axis=len(axes), mode="clip")
            part = jax.tree.map(cut, plan.replace(steps=None))
            mine = part.images[..., self._part.of(batch)]
            images, labels = _read_again(self._source, mine)
            part = part.replace(steps=plan.steps, images=None)
            todo = np.minimum(together, plan.steps - start)
            return Chunk(images=images, labels=labels, plan=part, todo=todo)

        yield from ahead(read, range(0, int(plan.steps.max()), together))


class EvalData(flax.struct.PyTreeNode):
    """Images to measure accuracy on, in batches of equal shape."""

    # uint8[B, H, W, C] and int32[B]; a label of -1 marks padding.
    batches: tuple[tuple[AnyArray, AnyArray], ...]
    count: int = flax.struct.field(pytree_node=False)  # images without padding
    stats: PixelStats

    @classmethod
    def of(
        cls,
        images: np.ndarray,
        labels: np.ndarray,
        stats: PixelStats,
        *,
        batch_size: int = _EVAL_BATCH,
    ) -> "EvalData":
        """Cuts `uint8[N, H, W, C]` and `int32[N]` into padded batches."""
        starts = range(0, len(labels), batch_size)
        batches = (
            _padded(images[i : i + batch_size], labels[i : i + batch_size], batch_size)
            for i in starts
        )
        return cls(batches=tuple(batches), count=len(labels), stats=stats)


class StreamedEvalData:
    """Images to measure accuracy on, read for each measurement; see `EvalData`."""

    def __init__(self, source: Images, indices: np.ndarray, stats: PixelStats, part: Part = _WHOLE):
        self.count = len(indices)
        self.stats = stats
        self._source = source
        self._indices = indices
        self._part = part

    @property
    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        batch = -(-_EVAL_BATCH // self._part.devices) * self._part.devices
        mine = self._part.of(batch)

        def read(start: int) -> tuple[np.ndarray, np.ndarray]:
            chosen = self._indices[start : start + batch][mine]
            # One image at least, for the shape.
            images, labels = _read_again(self._source, chosen if chosen.size else self._indices[:1])
            return _padded(images[: chosen.size], labels[: chosen.size], mine.stop - mine.start)

        return ahead(read, range(0, self.count, batch))


class Feed(NamedTuple):
    """Images to train on and images to measure accuracy on."""

    train: TrainData | StreamedTrainData
    evaluation: EvalData | StreamedEvalData


def feeds(
    train: Images, validation: np.ndarray, test: Images, *, devices: Sequence[jax.Device]
) -> dict[bool, Feed]:
    """Images of trainings without the validation images (False) and on the full split (True).

    Without the validation images accuracy is measured on them, else on the test split.

    Args:
      train: the training split; decoded images go to the devices, others are streamed.
      validation: `bool[N]`, the training images to validate on.
      test: the test split.
      devices: the devices; where some are of other processes, each process streams its part of
        every batch.
    """
    stats = pixel_stats(_sample(train))
    everything = np.ones_like(validation)
    if not isinstance(train, Split) or not isinstance(test, Split):
        processes = sorted({device.process_index for device in devices})
        part = _WHOLE
        if len(processes) > 1:
            part = Part(processes.index(jax.process_index()), len(processes), len(devices))
        return {
            False: Feed(
                StreamedTrainData(train, ~validation, stats, part),
                StreamedEvalData(train, np.flatnonzero(validation), stats, part),
            ),
            True: Feed(
                StreamedTrainData(train, everything, stats, part),
                StreamedEvalData(test, np.arange(len(test)), stats, part),
            ),
        }
    data: TrainData = replicate(
        TrainData(images=train.images, labels=train.labels, members=~validation, stats=stats),
        devices,
    )
    held_out = EvalData.of(train.images[validation], train.labels[validation], stats)
    tested = EvalData.of(test.images, test.labels, stats)
    return {
        False: Feed(data, replicate(held_out, devices)),
        True: Feed(
            data.replace(members=replicate(everything, devices)), replicate(tested, devices)
        ),
    }


def _sample(train: Images) -> np.ndarray:
    """Images for pixel statistics: all, or a random sample of those on disk."""
    if isinstance(train, Split):
        return train.images
    chosen = np.random.default_rng(0).permutation(len(train))[:_SAMPLE]
    return train.read(np.sort(chosen))[0]


def pixel_stats(images: np.ndarray) -> PixelStats:
    """Exact mean and deviation per channel of `uint8[N, H, W, C]`, from counts of the values."""
    values = np.arange(256)
    means, deviations = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        means.append(np.average(values, weights=counts))
        deviations.append(np.sqrt(np.average((values - means[-1]) ** 2, weights=counts)))
    # A constant channel stays constant.
    std = np.maximum(np.array(deviations, np.float32), np.float32(1.0))
    return PixelStats(mean=np.array(means, np.float32), std=std)


def _read_again(source: Images, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads images that were sound before anything trained: the cause of an error is the disk."""
    try:
        return source.read(indices)
    except DataError as error:
        raise StorageError(f"{error}; when it can again, the same command goes on") from error


def _padded(images: np.ndarray, labels: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    missing = size - len(labels)
    images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
    return images, np.concatenate([labels, np.full(missing, -1, labels.dtype)])


def ahead(function: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """Yields `function(item)` for all items in order, computed ahead in a thread."""
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
