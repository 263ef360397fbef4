"""The compiled training of one architecture, on one device, for any recipe and seed.

Recipe, seed, split and number of epochs are arguments of the compiled programs, so a second recipe,
a second seed or the retraining on more images compiles nothing. Each architecture compiles its own
programs: init, one epoch, one evaluation batch.
"""

import functools
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from jointnas_jax.config import TrainConfig
from jointnas_jax.data.augment import Augmentation, EpochPlan, plan_epoch
from jointnas_jax.nets.conv import resolve_lowering
from jointnas_jax.nets.init import constant_variables, draw_kernels
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec, Recipe
from jointnas_jax.train import step as steps
from jointnas_jax.train.recipe_arrays import RecipeArrays

# Streams of the trial's key.
_INIT, _PLAN, _STEP = range(3)


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
    stats: steps.PixelStats


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
    stats: steps.PixelStats = None

    @classmethod
    def of(
        cls, images: np.ndarray, labels: np.ndarray, stats: steps.PixelStats, batch_size: int = 256
    ) -> "EvalData":
        """Cuts `uint8[N, H, W, C]` and `int32[N]` into padded batches."""
        padding = -len(labels) % batch_size
        images = np.concatenate([images, np.zeros((padding, *images.shape[1:]), images.dtype)])
        padded = np.concatenate([labels, np.full(padding, -1, labels.dtype)])
        cuts = range(batch_size, len(padded), batch_size)
        batches = zip(np.split(images, cuts), np.split(padded, cuts), strict=True)
        return cls(tuple(batches), len(labels), stats)


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
    """Compiled programs of one architecture; see the module docstring."""

    def __init__(self, arch: ArchSpec, config: TrainConfig, augmentation: Augmentation):
        module = Network(arch, resolve_lowering(config.lowering))
        jit = functools.partial(jax.jit, compiler_options=compiler_options(config.fast_compile))
        self._batch_size = config.batch_size
        self._augmentation = augmentation
        self._constants = constant_variables(module)
        self._init = jax.jit(steps.init_state)
        self._epoch = jit(
            functools.partial(_train_epoch, module, augmentation), donate_argnames="state"
        )
        self._correct = jit(functools.partial(_count_correct, module, self._constants))

    def train(
        self,
        recipe: Recipe,
        data: TrainData,
        evaluation: EvalData,
        epochs: int,
        key: jax.Array,
        every_epoch: bool = True,
    ) -> Training:
        """Trains from scratch on the device that holds `data`.

        Args:
          recipe: the recipe.
          data: images to train on.
          evaluation: images to measure accuracy on, on the same device.
          epochs: at least 1.
          key: the trial's key, consumed.
          every_epoch: measure accuracy after each epoch, not only after the last.

        Returns:
          Accuracies and weights. A non-finite loss ends the training at that epoch.
        """
        arrays = RecipeArrays.of(recipe)
        plan_key = jax.random.fold_in(key, _PLAN)
        step_key = jax.random.fold_in(key, _STEP)
        initial = draw_kernels(self._constants, jax.random.fold_in(key, _INIT))
        # Committed to the device like everything after it, or the second epoch would compile again.
        state = self._init(jax.device_put(initial, data.labels.sharding))
        accuracies: list[float] = []
        for epoch in range(epochs):
            plan = plan_epoch(
                data.members,
                arrays.mixup,
                jax.random.fold_in(plan_key, epoch),
                self._augmentation,
                self._batch_size,
            )
            state, trained, failed_step = self._epoch(state, arrays, data, plan, step_key)
            if every_epoch or epoch == epochs - 1:
                correct = [
                    self._correct(trained, *batch, evaluation.stats) for batch in evaluation.batches
                ]
                accuracies.append(sum(int(c) for c in correct) / evaluation.count)
            if int(failed_step) >= 0:
                return Training(tuple(accuracies), None, int(failed_step))
        return Training(tuple(accuracies), self._on_host(trained), None)

    def _on_host(self, trained: jax.Array) -> Any:
        """Cuts `float32[V]` into Flax variables with NumPy, which compiles nothing."""
        leaves, structure = jax.tree.flatten(self._constants)
        cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
        pieces = np.split(np.asarray(trained), cuts)
        shaped = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
        return jax.tree.unflatten(structure, shaped)


@functools.cache
def compiler_options(fast: bool) -> dict[str, Any]:
    """Options for XLA. `fast` halves the compile time on CPU for programs that run slower."""
    if not fast or jax.default_backend() != "cpu":
        return {}
    wanted = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": False}
    return {name: value for name, value in wanted.items() if _is_known({name: value})}


def _is_known(option: dict[str, Any]) -> bool:
    """Whether the installed XLA has an option: they come and go between versions."""
    try:
        jax.jit(lambda x: x, compiler_options=option).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def _train_epoch(
    module: Network,
    augmentation: Augmentation,
    state: steps.TrainState,
    recipe: RecipeArrays,
    data: TrainData,
    plan: EpochPlan,
    key: jax.Array,
) -> tuple[steps.TrainState, jax.Array, jax.Array]:
    """Runs one epoch.

    Returns:
      The state; the variables that count, flattened to `float32[V]`; the first step with a
      non-finite loss, or -1.
    """

    def step(i: jax.Array, carry: tuple) -> tuple:
        state, failed_step = carry
        chosen = plan.images[i]
        batch = steps.Batch(
            data.images[chosen], data.labels[chosen], plan.corners[i], plan.flips[i], plan.mixup[i]
        )
        after, loss = steps.train_step(
            module, augmentation, state, recipe, batch, data.stats, plan.steps, key
        )
        failed = (failed_step < 0) & ~jnp.isfinite(loss)
        return after, jnp.where(failed, state.step, failed_step)

    state, failed_step = jax.lax.fori_loop(0, plan.steps, step, (state, jnp.int32(-1)))
    return state, steps.trained_variables(state, recipe), failed_step


def _count_correct(
    module: Network,
    template: Any,
    variables: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    stats: steps.PixelStats,
) -> jax.Array:
    """`steps.count_correct` with the variables as `float32[V]`, cut up like `template`.

    One vector, because cutting it into a hundred arguments would be a program of its own.
    """
    _, unravel = ravel_pytree(template)
    return steps.count_correct(module, unravel(variables), images, labels, stats)
