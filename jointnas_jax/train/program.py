"""The compiled training of candidates, side by side, in one program.

A program is compiled for a shape: an envelope, or one architecture. Everything about a candidate
is an argument of it: variables, switches, recipe, seed, split, number of epochs. So a second
candidate, recipe or seed, or the retraining on more images, compiles nothing.

Every candidate trains in a lane, one or more on each device (`parallel`), or in one lane that all
devices share (`DataParallel`); what a lane computes depends on its candidate and key alone.

D = devices, V = size of the variables of the shape.
"""

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.flatten_util import ravel_pytree

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation, EpochPlan, plan_epoch
from jointnas_jax.errors import InterruptedStudyError
from jointnas_jax.nets.conv import resolve_dtype, resolve_lowering
from jointnas_jax.nets.envelope import Envelope, Switches, cut_variables, pad_variables
from jointnas_jax.nets.init import initial_variables, zero_variables
from jointnas_jax.nets.network import MBConv, Network
from jointnas_jax.nets.tiled import TiledMBConv
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.runtime.distributed import share
from jointnas_jax.space import ArchSpec, Candidate
from jointnas_jax.train import step as steps
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.data_parallel import DataParallel, batch_spread
from jointnas_jax.train.feed import EvalData, StreamedEvalData, StreamedTrainData, TrainData
from jointnas_jax.train.parallel import Parallel, parallel, replicate
from jointnas_jax.train.recipe_arrays import RecipeArrays

# Streams of the trial's key.
_INIT, _PLAN, _STEP = range(3)


class Training(NamedTuple):
    """What training one candidate gave.

    Attributes:
      accuracies: after each epoch, fraction in [0, 1]; up to the epoch before a failure.
      variables: Flax variables that count for the recipe, on the host; None after a failure.
      failed_step: first step with a non-finite loss, or the last one of an epoch that left a
        non-finite weight behind; None if there was none.
    """

    accuracies: tuple[float, ...]
    variables: Any
    failed_step: int | None

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        failed = self.failed_step is not None
        return f"loss was not finite at step {self.failed_step}" if failed else None


class _Lanes(NamedTuple):
    """Everything about the candidates that train, stacked over lanes.

    Attributes:
      state: what evolves.
      switches: which architectures, inside of an envelope.
      recipes: of the candidates.
      plan_keys: data of the keys that batches are drawn with.
      step_keys: data of the keys of steps.
    """

    state: steps.TrainState
    switches: Switches | None
    recipes: RecipeArrays
    plan_keys: Any
    step_keys: Any


class TrainProgram:
    """Compiled programs of one shape; see the module docstring.

    Attributes:
      lanes: candidates that train at once.
    """

    def __init__(
        self,
        shape: ArchSpec | Envelope,
        config: TrainConfig,
        augmentation: Augmentation,
        devices: Sequence[jax.Device],
        lanes_per_device: int = 1,
        streamed: bool = False,
        together: bool = False,
        teacher: steps.Teacher | None = None,
    ):
        """Creates the programs; they are compiled when they are first used.

        Args:
          shape: of the networks.
          config: of training.
          augmentation: of the dataset.
          devices: to train on; together also those of other processes, in the same order in all.
          lanes_per_device: candidates at once on each.
          streamed: whether `train` will get `StreamedTrainData`.
          together: train one candidate on all devices, each with a part of every batch.
          teacher: whose answers candidates learn besides the labels.
        """
        here = tuple(d for d in devices if d.process_index == jax.process_index())
        self._parts = len(here) < len(devices)
        self.lanes = 1 if together else len(devices) * lanes_per_device
        self._shape = shape
        self._devices = devices
        self._per_device = lanes_per_device
        self._teacher = replicate(teacher, devices)
        self._compiled, self._lock = False, threading.Lock()
        self._template = zero_variables(shape)
        dtype = resolve_dtype(config.dtype)
        lowering = resolve_lowering(config.lowering, dtype)
        # Under `vmap` the loop over tiles would run as long as its longest lane.
        tiled = isinstance(shape, Envelope) and lowering == "matmul" and lanes_per_device == 1
        block = TiledMBConv if tiled else MBConv
        module = Network(shape, lowering, block, dtype, mapped=lanes_per_device > 1)
        side_by_side: Callable[..., Any] = functools.partial(
            parallel, devices=tuple(devices), lanes_per_device=lanes_per_device
        )
        spread: Callable[[Any], Any] = lambda batch: batch
        if together:
            side_by_side = functools.partial(DataParallel, devices=tuple(devices))
            spread = batch_spread(tuple(devices))
        fast = ("light", "old_fusion")
        epoch_options = correct_options = fast if config.fast_compile else ()
        # An envelope trains many candidates: the speed of its epochs is worth a longer compilation.
        if isinstance(shape, Envelope):
            epoch_options, correct_options = ("light",), fast
        self._epoch = side_by_side(
            functools.partial(steps.train_epoch, module, augmentation, spread),
            "lll" + ("bbs" if streamed else "sss") + "lsls",
            options=compiler_options(*epoch_options),
            donate=(0,),
        )
        self._correct = side_by_side(
            functools.partial(_count_correct, module, self._template, spread),
            "ll" + ("iis" if streamed and self._parts else "sss"),
            options=compiler_options(*correct_options),
        )
        planners = here[:1] if together else here
        self._plan = _plan_program(planners, lanes_per_device, augmentation, config.batch_size)

    def compile(
        self,
        candidate: Candidate,
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
    ) -> None:
        """Compiles what `train` will need for candidates like this one, if it is not there yet.

        Without it the first `train` does.
        """
        self._compile(self._lanes([candidate], [jax.random.key(0)]), data, evaluation)

    def train(
        self,
        candidates: Sequence[Candidate],
        keys: Sequence[jax.Array],
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
        epochs: int,
        every_epoch: bool = True,
        checkpoints: Checkpoints | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Training]:
        """Trains candidates from scratch.

        Args:
          candidates: `lanes` of them at most, all inside of the shape.
          keys: of the trials, consumed.
          data: images to train on, on every device (see `replicate`) or streamed.
          evaluation: images to measure accuracy on, likewise.
          epochs: at least 1.
          every_epoch: measure accuracy after each epoch, not only after the last.
          checkpoints: where the state is kept; an earlier training of the same goes on from there.
          stop: whether the training shall be saved and end, asked after each epoch.
          progress: called after each epoch with its number, from 1, and the mean loss of the
            candidates whose loss is finite.

        Returns:
          Accuracies and weights of each candidate. A loss or weight that is not finite ends the
          training of its lane at that epoch, and leaves the others alone.

        Raises:
          InterruptedStudyError: it was interrupted.
        """
        lanes = self._lanes(candidates, keys)
        self._compile(lanes, data, evaluation)
        lanes, done, counts, failures = _restored(checkpoints, lanes, self._parts)
        for epoch in range(done, epochs):
            lanes, trained, failed, losses = self._one_epoch(lanes, data, epoch)
            if every_epoch or epoch == epochs - 1:
                ask = functools.partial(self._correct, trained, lanes.switches)
                counts.append([ask(*batch, evaluation.stats) for batch in evaluation.batches])
            failures.append(failed)
            if progress:
                progress(epoch + 1, _mean_loss(losses, len(candidates)))
            if (np.max(failures, axis=0)[: len(candidates)] >= 0).all():
                break
            if epoch == epochs - 1:  # what comes now is the result
                break
            ending = stop()
            if checkpoints and (ending or checkpoints.due()):
                known = {"counts": counts, "failures": failures}
                notes = {n: [np.array(e).tolist() for e in some] for n, some in known.items()}
                checkpoints.save(epoch + 1, lanes.state, notes)
            if ending:
                raise InterruptedStudyError
        correct = [np.sum([_flat(c) for c in epoch], 0) for epoch in counts]
        accuracies = np.reshape(correct, (len(counts), self.lanes)) / evaluation.count
        trained = np.asarray(trained).reshape(self.lanes, -1)
        return [
            self._training(candidate.arch, accuracies[:, lane], [f[lane] for f in failures], row)
            for lane, (candidate, row) in enumerate(zip(candidates, trained, strict=False))
        ]

    def _one_epoch(
        self, lanes: _Lanes, data: TrainData | StreamedTrainData, epoch: int
    ) -> tuple[_Lanes, jax.Array, np.ndarray, list[jax.Array]]:
        """Trains for one epoch.

        Returns:
          The lanes after it, the variables that count, the first failed step of each lane or -1,
          and mean losses, which add up over chunks.
        """
        plan = self._plan(*self._plan_arguments(lanes, data, epoch))
        failed, losses = [], []
        for chunk in data.chunks(plan):
            state, trained, step, loss = self._epoch(*self._arguments(lanes, chunk, data.stats))
            lanes = lanes._replace(state=state)
            failed.append(step)
            losses.append(loss)
        return lanes, trained, _first(failed), losses

    def _plan_arguments(
        self, lanes: _Lanes, data: TrainData | StreamedTrainData, epoch: int
    ) -> tuple:
        # Each process draws the whole plan for itself.
        members = np.asarray(data.members) if self._parts else data.members
        return members, lanes.recipes.mixup, lanes.plan_keys, np.int32(epoch)

    def _arguments(self, lanes: _Lanes, chunk: tuple, stats: steps.PixelStats) -> tuple:
        # Alike in all lanes and told once: under `vmap` a loop whose lanes could end one by one
        # would select every part of the state at every step.
        images, labels, plan, todo = (*chunk[:3], np.int32(_flat(chunk[3]).max()))
        own = (lanes.state, lanes.recipes, lanes.switches)
        return (*own, images, labels, stats, plan, todo, lanes.step_keys, self._teacher)

    def _compile(
        self,
        lanes: _Lanes,
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
    ) -> None:
        """Compiles all programs side by side, from what `train` will call them with; once."""
        with self._lock:
            if not self._compiled:
                self._compile_all(lanes, data, evaluation)
                self._compiled = True

    def _compile_all(
        self,
        lanes: _Lanes,
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
    ) -> None:
        plan_args = self._plan_arguments(lanes, data, 0)
        # Of images on the device a chunk has the shapes of the plan; others must be read.
        resident = isinstance(data, TrainData)
        plan = self._plan.shapes(*plan_args) if resident else self._plan(*plan_args)
        chunk = (*next(data.chunks(plan))[:3], 0)
        trained = jax.ShapeDtypeStruct(lanes.state.averaged.shape, np.float32)
        batch = next(iter(evaluation.batches))
        calls = [
            (self._epoch, self._arguments(lanes, chunk, data.stats)),
            (self._plan, plan_args),
            (self._correct, (trained, lanes.switches, *batch, evaluation.stats)),
        ]
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(lambda call: call[0].compile(*call[1]), calls))

    def _lane(self, candidate: Candidate, key: jax.Array) -> _Lanes:
        """Everything about a candidate, as arrays on the host."""
        initial = initial_variables(candidate.arch, jax.random.fold_in(key, _INIT))
        switches = None
        if isinstance(self._shape, Envelope):
            initial = pad_variables(initial, self._template)
            switches = Switches.of(candidate.arch, self._shape)
        data = lambda stream: np.asarray(jax.random.key_data(jax.random.fold_in(key, stream)))
        state = steps.init_state(initial)
        return _Lanes(state, switches, RecipeArrays.of(candidate.recipe), data(_PLAN), data(_STEP))

    def _lanes(self, candidates: Sequence[Candidate], keys: Sequence[jax.Array]) -> _Lanes:
        """Stacks what the lanes hold to `[D, ...]`, or `[D, lanes per device, ...]`."""
        filled = [*range(len(candidates)), *[0] * (self.lanes - len(candidates))]
        own = [self._lane(candidates[i], keys[i]) for i in filled]
        axes = (self._per_device,) if self._per_device > 1 else ()
        shape = (self.lanes // self._per_device, *axes)
        return jax.tree.map(
            lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *own
        )

    def _training(
        self, arch: ArchSpec, accuracies: np.ndarray, failures: list[int], row: np.ndarray
    ) -> Training:
        failed = next((epoch for epoch, step in enumerate(failures) if step >= 0), None)
        if failed is not None:
            every = len(accuracies) == len(failures)
            kept = accuracies[:failed] if every else ()
            return Training(tuple(map(float, kept)), None, int(failures[failed]))
        variables = self._on_host(row)
        if isinstance(self._shape, Envelope):
            variables = cut_variables(variables, zero_variables(arch))
        return Training(tuple(map(float, accuracies)), variables, None)

    def _on_host(self, trained: np.ndarray) -> Any:
        """Cuts `float32[V]` into Flax variables with NumPy, which compiles nothing."""
        leaves, structure = jax.tree.flatten(self._template)
        cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
        pieces = np.split(trained, cuts)
        shaped = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)


@functools.lru_cache(maxsize=32)
def _plan_program(
    devices: tuple[jax.Device, ...],
    lanes_per_device: int,
    augmentation: Augmentation,
    batch_size: int,
) -> Parallel:
    """`plan_epoch` for all lanes; one program for every shape."""

    def plan(members: jax.Array, alpha: jax.Array, key: jax.Array, epoch: jax.Array) -> EpochPlan:
        key = jax.random.fold_in(jax.random.wrap_key_data(key), epoch)
        return plan_epoch(members, alpha, key, augmentation, batch_size)

    options = compiler_options("light", "old_fusion")
    settings = dict(lanes_per_device=lanes_per_device, options=options)
    return parallel(plan, "slls", devices, **settings)


def _restored(
    checkpoints: Checkpoints | None, lanes: _Lanes, parts: bool
) -> tuple[_Lanes, int, list, list]:
    """Lanes after the epochs that are saved, the number of these, and what was noted of each.

    Processes with a part each have the state of process 0.
    """
    state, done, notes = checkpoints.restore(lanes.state) if checkpoints else (lanes.state, 0, {})
    if parts:
        done, notes = share([done, notes])
        state = multihost_utils.broadcast_one_to_all(state)
    counts, failures = ([np.array(e) for e in notes.get(n, [])] for n in ("counts", "failures"))
    return lanes._replace(state=state), done, counts, failures


def _flat(values: jax.Array) -> np.ndarray:
    """The values of all lanes, on the host.

    What is computed of shards would be a collective, which XLA:CPU gives up, and the process with
    it, where a device is 40 s late.
    """
    return np.asarray(values).ravel()


def _mean_loss(losses: Sequence[jax.Array], count: int) -> float:
    """Mean over the first lanes, where it is finite; losses of chunks add up."""
    own = np.sum([_flat(loss) for loss in losses], 0)[:count]
    finite = own[np.isfinite(own)]
    return float(finite.mean()) if finite.size else float("nan")


def _first(failed: Sequence[jax.Array]) -> np.ndarray:
    """The first failed step of each lane over the chunks of an epoch, -1 where there is none."""
    found = np.stack([_flat(f) for f in failed])
    return np.where((found >= 0).any(0), found[(found >= 0).argmax(0), range(found.shape[1])], -1)


def _count_correct(
    module: Network,
    template: Any,
    spread: Callable[[Any], Any],
    variables: jax.Array,
    switches: Switches | None,
    images: jax.Array,
    labels: jax.Array,
    stats: steps.PixelStats,
) -> jax.Array:
    """`steps.count_correct` with the variables as `float32[V]`, cut up like `template`.

    One vector, because cutting it into a hundred arguments would be a program of its own.
    """
    _, unravel = ravel_pytree(template)
    images, labels = spread((images, labels))
    return steps.count_correct(module, unravel(variables), images, labels, stats, switches)
