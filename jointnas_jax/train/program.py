"""The compiled training of candidates, side by side, in one program.

A program is compiled for a shape: an envelope, or one architecture. Everything about a candidate
is an argument of it: variables, switches, recipe, seed, split, number of epochs. So a second
candidate, recipe or seed, or the retraining on more images, compiles nothing.

Every candidate trains in a lane, one or more on each device (`Parallel`); what a lane computes
depends on its candidate and key alone.

D = devices, V = size of the variables of the shape.
"""

import concurrent.futures
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation, EpochPlan, plan_epoch
from jointnas_jax.nets.conv import resolve_lowering
from jointnas_jax.nets.envelope import Envelope, Switches, cut_variables, pad_variables
from jointnas_jax.nets.init import initial_variables, zero_variables
from jointnas_jax.nets.network import MBConv, Network
from jointnas_jax.nets.tiled import TiledMBConv
from jointnas_jax.space import ArchSpec, Candidate
from jointnas_jax.train import step as steps
from jointnas_jax.train.feed import EvalData, StreamedEvalData, StreamedTrainData, TrainData
from jointnas_jax.train.parallel import Parallel, compiler_options
from jointnas_jax.train.recipe_arrays import RecipeArrays

# Streams of the trial's key.
_INIT, _PLAN, _STEP = range(3)


class Training(NamedTuple):
    """What training one candidate gave.

    Attributes:
      accuracies: after each epoch, fraction in [0, 1]; shorter than asked for after a failure.
      variables: Flax variables that count for the recipe, on the host; None after a failure.
      failed_step: first step with a non-finite loss, None if there was none.
    """

    accuracies: tuple[float, ...]
    variables: Any
    failed_step: int | None


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
    ):
        """Creates the programs; they are compiled when they are first used.

        Args:
          shape: of the networks.
          config: of training.
          augmentation: of the dataset.
          devices: to train on.
          lanes_per_device: candidates at once on each.
          streamed: whether `train` will get `StreamedTrainData`.
        """
        self.lanes = len(devices) * lanes_per_device
        self._shape = shape
        self._devices = devices
        self._per_device = lanes_per_device
        self._batch_size = config.batch_size
        self._augmentation = augmentation
        self._compiled = False
        self._template = zero_variables(shape)
        lowering = resolve_lowering(config.lowering)
        # Under `vmap` the loop over tiles would run as long as its longest lane.
        tiled = isinstance(shape, Envelope) and lowering == "matmul" and lanes_per_device == 1
        module = Network(shape, lowering, TiledMBConv if tiled else MBConv)
        parallel = functools.partial(
            Parallel, devices=tuple(devices), lanes_per_device=lanes_per_device
        )
        fast = ("light", "old_fusion")
        epoch_options = correct_options = fast if config.fast_compile else ()
        # An envelope trains many candidates: the speed of its epochs is worth a longer compilation.
        if isinstance(shape, Envelope):
            epoch_options, correct_options = ("light",), fast
        self._epoch = parallel(
            functools.partial(_train_epoch, module, augmentation),
            "lll" + ("lls" if streamed else "sss") + "lll",
            options=compiler_options(*epoch_options),
            donate=(0,),
        )
        self._correct = parallel(
            functools.partial(_count_correct, module, self._template),
            "llsss",
            options=compiler_options(*correct_options),
        )
        self._plan = _plan_program(
            tuple(devices), lanes_per_device, augmentation, config.batch_size
        )

    def train(
        self,
        candidates: Sequence[Candidate],
        keys: Sequence[jax.Array],
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
        epochs: int,
        every_epoch: bool = True,
    ) -> list[Training]:
        """Trains candidates from scratch.

        Args:
          candidates: `lanes` of them at most, all inside of the shape.
          keys: of the trials, consumed.
          data: images to train on, on every device (see `replicate`) or streamed.
          evaluation: images to measure accuracy on, likewise.
          epochs: at least 1.
          every_epoch: measure accuracy after each epoch, not only after the last.

        Returns:
          Accuracies and weights of each candidate. A non-finite loss ends the training of its lane
          at that epoch, and leaves the others alone.
        """
        lanes = [*range(len(candidates)), *[0] * (self.lanes - len(candidates))]
        arrays = [self._lane(candidates[i], keys[i]) for i in lanes]
        state, switches, recipes, plan_keys, step_keys = (
            self._spread([a[part] for a in arrays]) for part in range(5)
        )
        if not self._compiled:
            lanes_state = (state, recipes, switches)
            self._compile(*lanes_state, plan_keys, step_keys, data, evaluation)
        counts, failures = [], []
        for epoch in range(epochs):
            plan = self._plan(data.members, recipes.mixup, plan_keys, np.int32(epoch))
            failed = []
            for images, labels, part, todo in data.chunks(plan):
                state, trained, step = self._epoch(
                    *(state, recipes, switches, images, labels, data.stats, part, todo, step_keys)
                )
                failed.append(step)
            if every_epoch or epoch == epochs - 1:
                counts.append(
                    [
                        self._correct(trained, switches, *batch, evaluation.stats)
                        for batch in evaluation.batches
                    ]
                )
            failures.append(_first(failed))
            if (failures[-1][: len(candidates)] >= 0).all():
                break
        correct = [sum(np.asarray(c).reshape(-1) for c in epoch) for epoch in counts]
        accuracies = np.array(correct) / evaluation.count
        trained = np.asarray(trained).reshape(self.lanes, -1)
        return [
            self._training(candidate.arch, accuracies[:, lane], [f[lane] for f in failures], row)
            for lane, (candidate, row) in enumerate(zip(candidates, trained, strict=False))
        ]

    def _compile(
        self,
        state: steps.TrainState,
        recipes: RecipeArrays,
        switches: Switches | None,
        plan_keys: jax.Array,
        step_keys: jax.Array,
        data: TrainData | StreamedTrainData,
        evaluation: EvalData | StreamedEvalData,
    ) -> None:
        """Compiles all programs side by side, from what `train` will call them with."""
        plan_args = (data.members, recipes.mixup, plan_keys, np.int32(0))
        # Of images on the device a chunk has the shapes of the plan; others must be read.
        resident = isinstance(data, TrainData)
        plan = self._plan.shapes(*plan_args) if resident else self._plan(*plan_args)
        images, labels, part, todo = next(data.chunks(plan))
        trained = jax.ShapeDtypeStruct(state.averaged.shape, np.float32)
        calls = [
            (
                self._epoch,
                (state, recipes, switches, images, labels, data.stats, part, todo, step_keys),
            ),
            (self._plan, plan_args),
            (self._correct, (trained, switches, *next(iter(evaluation.batches)), evaluation.stats)),
        ]
        with concurrent.futures.ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(lambda call: call[0].compile(*call[1]), calls))
        self._compiled = True

    def _lane(self, candidate: Candidate, key: jax.Array) -> tuple:
        """Everything about a candidate, as arrays on the host."""
        initial = initial_variables(candidate.arch, jax.random.fold_in(key, _INIT))
        switches = None
        if isinstance(self._shape, Envelope):
            initial = pad_variables(initial, self._template)
            switches = Switches.of(candidate.arch, self._shape)
        data = lambda stream: np.asarray(jax.random.key_data(jax.random.fold_in(key, stream)))
        state = steps.init_state(initial)
        return state, switches, RecipeArrays.of(candidate.recipe), data(_PLAN), data(_STEP)

    def _spread(self, items: list[Any]) -> Any:
        """Stacks what the lanes hold to `[D, ...]`, or `[D, lanes per device, ...]`."""
        axes = (self._per_device,) if self._per_device > 1 else ()
        shape = (len(self._devices), *axes)
        return jax.tree.map(
            lambda *leaves: np.stack(leaves).reshape(*shape, *leaves[0].shape), *items
        )

    def _training(
        self, arch: ArchSpec, accuracies: np.ndarray, failures: list[int], row: np.ndarray
    ) -> Training:
        failed = next((epoch for epoch, step in enumerate(failures) if step >= 0), None)
        if failed is not None:
            every = len(accuracies) == len(failures)
            kept = accuracies[: failed + 1] if every else ()
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
    return Parallel(plan, "slls", devices, lanes_per_device, options)


def _first(failed: Sequence[jax.Array]) -> np.ndarray:
    """The first failed step of each lane over the chunks of an epoch, -1 where there is none."""
    found = np.stack([np.asarray(f).reshape(-1) for f in failed])
    return np.where((found >= 0).any(0), found[(found >= 0).argmax(0), range(found.shape[1])], -1)


def _train_epoch(
    module: Network,
    augmentation: Augmentation,
    state: steps.TrainState,
    recipe: RecipeArrays,
    switches: Switches | None,
    images: jax.Array,
    labels: jax.Array,
    stats: steps.PixelStats,
    plan: EpochPlan,
    todo: jax.Array,
    key: jax.Array,
) -> tuple[steps.TrainState, jax.Array, jax.Array]:
    """Runs the first `todo` rows of a plan in a lane; `key` is the data of the trial's key.

    Returns:
      The state; the variables that count, flattened to `float32[V]`; the first step with a
      non-finite loss, or -1.
    """

    key = jax.random.wrap_key_data(key)

    def step(i: jax.Array, carry: tuple) -> tuple:
        state, failed_step = carry
        chosen = plan.images[i]
        batch = steps.Batch(
            images[chosen], labels[chosen], plan.corners[i], plan.flips[i], plan.mixup[i]
        )
        after, loss = steps.train_step(
            module, augmentation, state, recipe, batch, stats, plan.steps, key, switches
        )
        failed = (failed_step < 0) & ~jnp.isfinite(loss)
        return after, jnp.where(failed, state.step, failed_step)

    state, failed_step = jax.lax.fori_loop(0, todo, step, (state, jnp.int32(-1)))
    return state, steps.trained_variables(state, recipe), failed_step


def _count_correct(
    module: Network,
    template: Any,
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
    return steps.count_correct(module, unravel(variables), images, labels, stats, switches)
