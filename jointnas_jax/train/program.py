"""The compiled training of candidates, side by side, in one program.

A program is compiled for a shape: an envelope, or one architecture. Everything about a candidate
is an argument of it: variables, switches, recipe, seed, split, number of epochs. So a second
candidate, recipe or seed, or the retraining on more images, compiles nothing.

Every candidate trains in a lane, one or more on each device (`parallel`), or in one lane that all
devices share (`DataParallel`); the result of a lane depends on its candidate and key alone.

D = devices, V = size of the variables of the shape.
"""

import concurrent.futures
import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
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
from jointnas_jax.nets.inherit import inherit
from jointnas_jax.nets.init import initial_variables, zero_variables
from jointnas_jax.nets.network import MBConv, Network, shared_order
from jointnas_jax.nets.tiled import TiledMBConv
from jointnas_jax.runtime.compiler import compiler_options
from jointnas_jax.runtime.distributed import share
from jointnas_jax.space import ArchSpec, Candidate
from jointnas_jax.train import step as steps
from jointnas_jax.train.checkpoints import Checkpoints
from jointnas_jax.train.data_parallel import DataParallel, batch_spread
from jointnas_jax.train.feed import (
    Chunk,
    EvalData,
    Feed,
    StreamedEvalData,
    StreamedTrainData,
    TrainData,
)
from jointnas_jax.train.metrics import Metrics
from jointnas_jax.train.parallel import Parallel, parallel, replicate
from jointnas_jax.train.paused import Paused, to_arrays, to_state
from jointnas_jax.train.recipe_arrays import AnyArray, RecipeArrays
from jointnas_jax.train.step import EpochInputs, PixelStats

# Streams of the trial's key.
_INIT, _PLAN, _STEP = range(3)

# Weights that can be measured: those that count for the recipe, the last ones, the moving average.
TRAINED, RAW, AVERAGED = "trained", "raw", "averaged"


class Initial(NamedTuple):
    """Weights that trainings start from.

    Attributes:
      variables: Flax variables of a network, on the host.
      classes: whether it tells the same classes apart.
    """

    variables: Any
    classes: bool


class Training(NamedTuple):
    """The result of training one candidate."""

    curves: Mapping[str, tuple[Metrics, ...]]  # by weights, after each epoch before a failure
    variables: Any  # Flax variables that count for the recipe, on the host; None after a failure
    # First step with a non-finite loss, or last one of an epoch that left a non-finite weight.
    failed_step: int | None
    # `int32[2, N]` of the last measurement, see `metrics.answers_of`; None after a failure.
    answers: np.ndarray | None = None
    # Where the training pauses: from here it can go on. None elsewhere, and after a failure.
    paused: Paused | None = None

    @property
    def metrics(self) -> tuple[Metrics, ...]:
        """Those of the weights that count."""
        return self.curves[TRAINED]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """After each epoch before a failure, fractions in [0, 1]."""
        return tuple(metrics.accuracy for metrics in self.metrics)

    @property
    def reason(self) -> str | None:
        """Why it failed."""
        failed = self.failed_step is not None
        return f"loss was not finite at step {self.failed_step}" if failed else None


class _Lanes(NamedTuple):
    """The candidates in training, stacked over lanes."""

    state: steps.TrainState
    switches: Switches | None  # the architectures inside of an envelope
    recipes: RecipeArrays
    plan_keys: Any  # data of the keys of batches
    step_keys: Any  # data of the keys of steps


class TrainProgram:
    """Compiled programs of one shape, for `lanes` candidates at once."""

    def __init__(
        self,
        shape: ArchSpec | Envelope,
        config: TrainConfig,
        *,
        augmentation: Augmentation,
        devices: Sequence[jax.Device],
        lanes_per_device: int = 1,
        streamed: bool = False,
        together: bool = False,
        teacher: steps.Teacher | None = None,
        class_weights: np.ndarray | None = None,
        init: Initial | None = None,
    ):
        """Creates the programs; they are compiled when they are first used.

        Args:
          shape: an architecture, or an envelope.
          config: the training of candidates.
          augmentation: augmentation of the dataset.
          devices: devices in use; together also those of other processes, in the same order in all.
          lanes_per_device: candidates at once on each device.
          streamed: whether the training images are `StreamedTrainData`.
          together: train one candidate on all devices, each with a part of every batch.
          teacher: the teacher, if any.
          class_weights: `float32[classes]`, see `train_step`.
          init: weights to start from; None: from initial ones.
        """
        here = tuple(d for d in devices if d.process_index == jax.process_index())
        self._parts = len(here) < len(devices)
        self.lanes = 1 if together else len(devices) * lanes_per_device
        self._shape = shape
        self._devices = devices
        self._per_device = lanes_per_device
        self._init = init
        self._teacher = replicate(teacher, devices)
        self._compiled = False
        self._programs: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._template = zero_variables(shape)
        platform = devices[0].platform
        dtype = resolve_dtype(config.dtype, platform)
        lowering = resolve_lowering(config.lowering, dtype, platform)
        fits = together and config.batch_size % (2 * len(devices)) == 0
        parts = len(devices) if fits else 1
        if lanes_per_device > 1 and lowering == "diagonal":
            lowering = "conv"  # depthwise convolutions of all lanes are one, of many channels
        options = functools.partial(compiler_options, platform=platform)
        # Under `vmap` the loop over tiles would run as long as its longest lane.
        tiled = isinstance(shape, Envelope) and lowering == "matmul" and lanes_per_device == 1
        block = TiledMBConv if tiled else MBConv
        module = Network(
            arch=shape,
            lowering=lowering,
            block=block,
            dtype=dtype,
            mapped=lanes_per_device > 1,
            parts=parts,
        )
        side_by_side: Callable[..., Any] = functools.partial(
            parallel, devices=tuple(devices), lanes_per_device=lanes_per_device
        )
        spread: Callable[[Any], Any] = lambda batch: batch
        if together:
            side_by_side = functools.partial(DataParallel, devices=tuple(devices))
            spread = batch_spread(tuple(devices))
        fast = options("light", "old_fusion")
        epoch_options = evaluate_options = fast if config.fast_compile else options()
        # An envelope trains many candidates: the speed of its epochs is worth a longer compilation.
        if isinstance(shape, Envelope):
            epoch_options, evaluate_options = options("light"), fast

        def epoch(*inputs: Any) -> tuple:
            return steps.train_epoch(
                EpochInputs(*inputs),
                module=module,
                augmentation=augmentation,
                spread=spread,
                class_weights=class_weights,
                fine_tunes=init is not None,
            )

        self._epoch = side_by_side(
            epoch,
            "lll" + ("bbs" if streamed else "sss") + "lsls",  # as in `EpochInputs`
            options=epoch_options,
            donate=(0,),
        )
        self._evaluate = side_by_side(
            functools.partial(_evaluate, module=module, template=self._template, spread=spread),
            "l" + ("is" if streamed and self._parts else "ss"),
            options=evaluate_options,
        )
        self._plan = _plan_program(
            here[:1] if together else here,
            lanes_per_device=lanes_per_device,
            augmentation=augmentation,
            batch_size=config.batch_size,
            parts=parts,
        )

    def compile(self, candidate: Candidate, feed: Feed) -> dict[str, Any]:
        """Compiles the programs that `train` calls, unless they are compiled.

        Returns:
          What `Parallel.compile` returns for `epoch`, `plan` and `evaluate`.
        """
        self._compile(self._lanes([candidate], [jax.random.key(0)], 1, [None]), feed)
        return self._programs

    def train(
        self,
        candidates: Sequence[Candidate],
        keys: Sequence[jax.Array],
        feed: Feed,
        *,
        epochs: int,
        full_epochs: int = 0,
        resumed: Sequence[Paused | None] = (),
        pauses: bool = False,
        every_epoch: bool = True,
        weights: Sequence[str] = (TRAINED,),
        test: EvalData | StreamedEvalData | None = None,
        checkpoints: Checkpoints | None = None,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int, float], None] | None = None,
    ) -> list[Training]:
        """Trains candidates from scratch, or from where they paused.

        Args:
          candidates: candidates inside of the shape, at most `lanes`.
          keys: keys of the trials, consumed.
          feed: images, on every device (see `replicate`) or streamed.
          epochs: number of epochs, at least 1, those before a pause included.
          full_epochs: number of epochs that the recipe's schedule is for; 0: `epochs`.
          resumed: where the candidates paused, all after as many epochs; none: nowhere.
          pauses: whether the trainings can go on later. The last epoch is measured with averaged
            weights then: before the end they tell more of it.
          every_epoch: measure after each epoch, not only after the last.
          weights: what is measured: `trained`, and perhaps `raw` and `averaged`.
          test: images on which they are measured at the end, too; curves `test_raw` and so on.
          checkpoints: stored states; the training goes on from the newest.
          stop: called after each epoch; whether to save the state and end.
          progress: called after each epoch with its number, from 1, and the mean loss of the
            candidates whose loss is finite.

        Returns:
          Metrics of the epochs from here, and weights, of each candidate. A loss or weight that
          is not finite ends the training of its lane at that epoch, and leaves the others alone.

        Raises:
          InterruptedStudyError: `stop` returned true.
        """
        before = resumed or [None] * len(candidates)
        lanes = self._lanes(candidates, keys, full_epochs or epochs, before)
        self._compile(lanes, feed)
        lanes, done, measured, failures = _restored(checkpoints, lanes, self._parts)
        first = before[0].epochs if before[0] else 0
        tested: list[list[list[tuple[float, ...]]]] = []
        answers = np.zeros((self.lanes, 2, 0), np.int32)
        for epoch in range(max(done, first), epochs):
            lanes, trained, failed, losses = self._one_epoch(lanes, feed, epoch)
            if every_epoch or epoch == epochs - 1:
                averaged, last = lanes.state.averaged, epoch == epochs - 1
                counts = averaged if pauses and last else trained
                of = {TRAINED: counts, AVERAGED: averaged, RAW: lanes.state.variables}
                measure = functools.partial(self._measure, lanes=lanes)
                rows, (answers, *_) = zip(
                    *(measure(of[name], feed.evaluation) for name in weights), strict=True
                )
                measured.append(list(rows))
                if test and epoch == epochs - 1:
                    tested = [[measure(of[name], test)[0] for name in weights]]
            # Read after the measurement is dispatched: a device that is waited for does nothing.
            failures.append(_first(failed))
            if progress:
                progress(epoch + 1, _mean_loss(losses, len(candidates)))
            if (np.max(failures, axis=0)[: len(candidates)] >= 0).all():
                break
            if epoch == epochs - 1:
                break
            ending = stop()
            if checkpoints and (ending or checkpoints.due()):
                known = {"measured": measured, "failures": failures}
                notes = {n: [np.array(e).tolist() for e in some] for n, some in known.items()}
                checkpoints.save(epoch + 1, lanes.state, notes)
            if ending:
                raise InterruptedStudyError
        rows = np.asarray(trained).reshape(self.lanes, -1)
        states = self._states(lanes) if pauses else []
        return [
            self._training(
                candidate.arch,
                rows[lane],
                state=(epochs, states[lane]) if pauses else None,
                curves={
                    prefix + name: [epoch[w][lane] for epoch in some]
                    for prefix, some in (("", measured), ("test_", tested))
                    for w, name in enumerate(weights)
                    if some or not prefix
                },
                failures=[failed[lane] for failed in failures],
                answers=answers[lane],
            )
            for lane, candidate in enumerate(candidates)
        ]

    def _measure(
        self, variables: Any, images: EvalData | StreamedEvalData, lanes: _Lanes
    ) -> tuple[list[tuple[float, ...]], np.ndarray]:
        """The metrics of each lane, given `float32[V]` of each; answers `int32[lanes, 2, N]`."""
        lane, stats = (variables, lanes.switches), images.stats
        sums, answers = zip(
            *(self._evaluate(lane, batch, stats) for batch in images.batches), strict=True
        )
        # On the host, see `_flat`.
        rows = np.sum([np.asarray(s, np.float64).reshape(self.lanes, -1) for s in sums], 0)
        said = [np.asarray(a).reshape(self.lanes, 2, -1) for a in answers]
        metrics = [dataclasses.astuple(Metrics.of(row)) for row in rows]
        return metrics, np.concatenate(said, -1)[..., : images.count]

    def _one_epoch(
        self, lanes: _Lanes, feed: Feed, epoch: int
    ) -> tuple[_Lanes, jax.Array, list[jax.Array], list[jax.Array]]:
        """Starts an epoch, and waits for nothing but images.

        Returns:
          The lanes after it, the variables that count, and of each chunk the first failed steps,
          see `_first`, and mean losses, which add up.
        """
        data = feed.train
        plan = self._plan(*self._plan_inputs(lanes, data, epoch))
        failed, losses = [], []
        for chunk in data.chunks(plan):
            state, trained, step, loss = self._epoch(*self._inputs(lanes, chunk, data.stats))
            lanes = lanes._replace(state=state)
            failed.append(step)
            losses.append(loss)
        return lanes, trained, failed, losses

    def _plan_inputs(self, lanes: _Lanes, data: TrainData | StreamedTrainData, epoch: int) -> tuple:
        # Each process draws the whole plan for itself.
        members = np.asarray(data.members) if self._parts else data.members
        return members, (lanes.recipes.mixup, lanes.plan_keys), np.int32(epoch)

    def _inputs(self, lanes: _Lanes, chunk: Chunk, stats: PixelStats) -> EpochInputs:
        return EpochInputs(
            state=lanes.state,
            recipe=lanes.recipes,
            switches=lanes.switches,
            images=chunk.images,
            labels=chunk.labels,
            stats=stats,
            plan=chunk.plan,
            # One number for all lanes: under `vmap` a loop whose lanes could end one by one would
            # select every part of the state at every step.
            todo=np.int32(_flat(chunk.todo).max()),
            key=lanes.step_keys,
            teacher=self._teacher,
        )

    def _compile(self, lanes: _Lanes, feed: Feed) -> None:
        """Compiles all programs side by side, for the arguments of `train`; once."""
        with self._lock:
            if not self._compiled:
                self._programs = self._compile_all(lanes, feed)
                self._compiled = True

    def _compile_all(self, lanes: _Lanes, feed: Feed) -> dict[str, Any]:
        data, evaluation = feed
        plan_inputs = self._plan_inputs(lanes, data, 0)
        # A chunk of images on the device has the shapes of the plan; others must be read.
        plan_of = self._plan.shapes if isinstance(data, TrainData) else self._plan
        chunk = next(data.chunks(plan_of(*plan_inputs)))
        inputs = self._inputs(lanes, chunk._replace(todo=np.int32(0)), data.stats)
        trained = jax.ShapeDtypeStruct(lanes.state.averaged.shape, np.float32)
        batch = next(iter(evaluation.batches))
        variables = (trained, lanes.switches)
        compilations: dict[str, Callable[[], Any]] = {
            "epoch": lambda: self._epoch.compile(*inputs),
            "plan": lambda: self._plan.compile(*plan_inputs),
            "evaluate": lambda: self._evaluate.compile(variables, batch, evaluation.stats),
        }
        with concurrent.futures.ThreadPoolExecutor(len(compilations)) as pool:
            made = pool.map(lambda compilation: compilation(), compilations.values())
            return dict(zip(compilations, made, strict=True))

    def _lane(
        self, candidate: Candidate, key: jax.Array, epochs: int, paused: Paused | None
    ) -> _Lanes:
        """A candidate as arrays on the host."""
        arch = candidate.arch
        switches = Switches.of(arch, self._shape) if isinstance(self._shape, Envelope) else None
        if paused and paused.arrays:
            state = to_state(paused.arrays, self._template, zero_variables(arch))
        else:
            initial = initial_variables(arch, jax.random.fold_in(key, _INIT))
            if self._init:
                initial = inherit(initial, self._init.variables, classes=self._init.classes)
            initial = pad_variables(initial, self._template) if switches else initial
            state = steps.init_state(initial)
        data = lambda stream: np.asarray(jax.random.key_data(jax.random.fold_in(key, stream)))
        return _Lanes(
            state=state,
            switches=switches,
            recipes=RecipeArrays.of(candidate.recipe, epochs),
            plan_keys=data(_PLAN),
            step_keys=data(_STEP),
        )

    def _lanes(
        self,
        candidates: Sequence[Candidate],
        keys: Sequence[jax.Array],
        epochs: int,
        paused: Sequence[Paused | None],
    ) -> _Lanes:
        """Stacks candidates to `[D, ...]`, or `[D, lanes per device, ...]`, repeating the first."""
        filled = [*range(len(candidates)), *[0] * (self.lanes - len(candidates))]
        lanes = [self._lane(candidates[i], keys[i], epochs, paused[i]) for i in filled]
        axes = (self._per_device,) if self._per_device > 1 else ()
        shape = (self.lanes // self._per_device, *axes)
        return jax.tree.map(
            lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *lanes
        )

    def _states(self, lanes: _Lanes) -> list[steps.TrainState]:
        """The state of each lane on the host, in the shapes of the program."""
        axes = 2 if self._per_device > 1 else 1
        cut = lambda leaf: np.asarray(leaf).reshape(self.lanes, *np.shape(leaf)[axes:])
        stacked = jax.tree.map(cut, lanes.state)
        return [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(self.lanes)]

    def _training(
        self,
        arch: ArchSpec,
        trained: np.ndarray,
        *,
        state: tuple[int, steps.TrainState] | None,
        curves: Mapping[str, Sequence[Sequence[float]]],
        failures: list[int],
        answers: np.ndarray,
    ) -> Training:
        metrics = {name: [Metrics(*row) for row in rows] for name, rows in curves.items()}
        failed = next((epoch for epoch, step in enumerate(failures) if step >= 0), None)
        if failed is not None:
            before = {
                name: tuple(rows[:failed]) if len(rows) == len(failures) else ()
                for name, rows in metrics.items()
            }
            return Training(before, None, int(failures[failed]))
        variables = steps.unflat(trained, self._template)
        own = zero_variables(arch)
        if isinstance(self._shape, Envelope):
            variables = cut_variables(variables, own)
        paused = Paused(state[0], to_arrays(state[1], self._template, own)) if state else None
        whole = {name: tuple(rows) for name, rows in metrics.items()}
        return Training(whole, variables, None, answers, paused)


@functools.lru_cache(maxsize=32)
def _plan_program(
    devices: tuple[jax.Device, ...],
    *,
    lanes_per_device: int,
    augmentation: Augmentation,
    batch_size: int,
    parts: int,
) -> Parallel:
    """`plan_epoch` for all lanes, in the order of `shared_order`; one program for every shape."""
    order = shared_order(batch_size, parts)

    def plan(members: jax.Array, lane: tuple[jax.Array, jax.Array], epoch: jax.Array) -> EpochPlan:
        alpha, key_data = lane
        key = jax.random.fold_in(jax.random.wrap_key_data(key_data), epoch)
        kind = dict(augmentation=augmentation, batch_size=batch_size)
        drawn = plan_epoch(members, alpha, key, **kind)
        ordered = lambda a: a[:, order] if parts > 1 and a.ndim > 1 else a
        return jax.tree.map(ordered, drawn)

    options = compiler_options("light", "old_fusion", platform=devices[0].platform)
    return parallel(plan, "sls", devices, lanes_per_device=lanes_per_device, options=options)


def _restored(
    checkpoints: Checkpoints | None, lanes: _Lanes, parts: bool
) -> tuple[_Lanes, int, list, list]:
    """Lanes after the saved epochs, the number of these epochs, what was measured, failures.

    Processes with a part of every batch have the state of process 0.
    """
    state, done, notes = checkpoints.restore(lanes.state) if checkpoints else (lanes.state, 0, {})
    if parts:
        done, notes = share([done, notes])
        state = multihost_utils.broadcast_one_to_all(state)
    failures = [np.array(epoch) for epoch in notes.get("failures", [])]
    return lanes._replace(state=state), done, notes.get("measured", []), failures


def _flat(values: AnyArray | np.int32) -> np.ndarray:
    """The values of all lanes, on the host.

    A computation on shards would be a collective: XLA:CPU ends the process if a device is 40 s
    late for one.
    """
    return np.asarray(values).ravel()


def _mean_loss(losses: Sequence[jax.Array], count: int) -> float:
    """Mean of the finite losses of the first `count` lanes; losses of chunks add up."""
    sums = np.sum([_flat(loss) for loss in losses], 0)[:count]
    finite = sums[np.isfinite(sums)]
    return float(finite.mean()) if finite.size else float("nan")


def _first(failed: Sequence[jax.Array]) -> np.ndarray:
    """The first failed step of each lane over the chunks of an epoch, -1 where there is none."""
    step = np.stack([_flat(f) for f in failed])
    return np.where((step >= 0).any(0), step[(step >= 0).argmax(0), range(step.shape[1])], -1)


def _evaluate(
    lane: tuple[jax.Array, Switches | None],
    batch: tuple[jax.Array, jax.Array],
    stats: PixelStats,
    *,
    module: Network,
    template: Any,
    spread: Callable[[Any], Any],
) -> tuple[jax.Array, jax.Array]:
    """`steps.evaluate` with the variables as `float32[V]`, cut up like `template`.

    One vector, because cutting it into a hundred arguments would take another program.
    """
    _, unravel = ravel_pytree(template)
    (variables, switches), (images, labels) = lane, spread(batch)
    return steps.evaluate(
        module, unravel(variables), switches, images=images, labels=labels, stats=stats
    )
