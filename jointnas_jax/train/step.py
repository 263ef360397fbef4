"""One training step, one epoch and one evaluation of a network, as pure functions.

Shapes: B = batch size, H x W x C = stored image, L = classes.
"""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jointnas_jax.data import augment
from jointnas_jax.data.augment import Augmentation, EpochPlan
from jointnas_jax.data.randaugment import transform_batch
from jointnas_jax.nets.envelope import Envelope, Switches
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec
from jointnas_jax.train.optimizer import (
    OptimizerState,
    initial_optimizer,
    learning_rate,
    recipe_optimizer,
)
from jointnas_jax.train.recipe_arrays import RecipeArrays

# Streams of a step's key.
_DROPOUT, _STOCHASTIC_DEPTH = range(2)


@flax.struct.dataclass
class PixelStats:
    """Mean and standard deviation of the training pixels per channel, `float32[C]` in [0, 255]."""

    mean: jax.Array | np.ndarray
    std: jax.Array | np.ndarray


@flax.struct.dataclass
class TrainState:
    """What evolves while one network trains.

    Attributes:
      step: `int32[]`, steps taken.
      variables: Flax variables: `params` and `batch_stats`.
      averaged: moving average of `variables`, flattened to `float32[V]`.
      optimizer: state of the optimizer.
    """

    step: jax.Array
    variables: Any
    averaged: jax.Array
    optimizer: OptimizerState


@flax.struct.dataclass
class Batch:
    """One batch before augmentation.

    Attributes:
      images: `uint8[B, H, W, C]`.
      labels: `int32[B]`.
      plan: the step's row of the epoch's plan, its `steps` and `images` left out.
    """

    images: jax.Array
    labels: jax.Array
    plan: EpochPlan


@flax.struct.dataclass
class Teacher:
    """A trained network whose answers another one learns to give (distillation).

    Attributes:
      variables: Flax variables of `module`.
      stats: pixel statistics that it was trained with.
      module: the network.
      share: of its answers in the loss, in [0, 1]; the rest is of the labels.
    """

    variables: Any
    stats: PixelStats
    module: Network = flax.struct.field(pytree_node=False)
    share: float = flax.struct.field(pytree_node=False)


def init_state(variables: Any) -> TrainState:
    """Returns the state before the first step, on the host, given initial Flax variables."""
    flatten = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    return TrainState(
        step=np.zeros((), np.int32),
        variables=variables,
        averaged=flatten(variables),
        optimizer=initial_optimizer(flatten(variables["params"]).size),
    )


def train_step(
    module: Network,
    augmentation: Augmentation,
    state: TrainState,
    recipe: RecipeArrays,
    batch: Batch,
    stats: PixelStats,
    steps_per_epoch: jax.Array,
    key: jax.Array,
    switches: Switches | None = None,
    teacher: Teacher | None = None,
) -> tuple[TrainState, jax.Array]:
    """Takes one step.

    Args:
      module: the network.
      augmentation: what the dataset asks for.
      state: before the step.
      recipe: the recipe.
      batch: the batch.
      stats: pixel statistics for normalisation.
      steps_per_epoch: `int32[]`.
      key: the trial's key; folded with the step here.
      switches: which architecture, if the network is an envelope.
      teacher: whose answers to learn besides the labels.

    Returns:
      The state after the step and the loss `float32[]`.
    """
    key = jax.random.fold_in(key, state.step)
    images, targets = augmented(module.arch, augmentation, recipe, batch, stats)
    if teacher:
        seen, _ = augmented(teacher.module.arch, augmentation, recipe, batch, teacher.stats)
        targets = _taught(teacher, seen, targets)

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        logits, updated = module.apply(
            state.variables | {"params": params},
            images,
            train=True,
            dropout=recipe.dropout,
            stochastic_depth=recipe.stochastic_depth,
            switches=switches,
            rngs={
                "dropout": jax.random.fold_in(key, _DROPOUT),
                "stochastic_depth": jax.random.fold_in(key, _STOCHASTIC_DEPTH),
            },
            mutable=["batch_stats"],
        )
        return optax.softmax_cross_entropy(logits, targets).mean(), updated["batch_stats"]

    params = state.variables["params"]
    (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    updates, optimizer = recipe_optimizer().update(
        grads,
        state.optimizer,
        params,
        recipe=recipe,
        learning_rate=learning_rate(recipe, state.step, steps_per_epoch),
    )
    variables = {"params": optax.apply_updates(params, updates), "batch_stats": batch_stats}
    # The average must not remember the initial weights: early on it forgets faster.
    decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    averaged = decay * state.averaged + (1 - decay) * ravel_pytree(variables)[0]
    return TrainState(state.step + 1, variables, averaged, optimizer), loss


def train_epoch(
    module: Network,
    augmentation: Augmentation,
    spread: Callable[[Any], Any],
    state: TrainState,
    recipe: RecipeArrays,
    switches: Switches | None,
    images: jax.Array,
    labels: jax.Array,
    stats: PixelStats,
    plan: EpochPlan,
    todo: jax.Array,
    key: jax.Array,
    teacher: Teacher | None,
) -> tuple[TrainState, jax.Array, jax.Array, jax.Array]:
    """Runs the first `todo` rows of a plan in a lane; `key` is the data of the trial's key.

    Images are gathered as the plan says, or are those of the rows where it names none.

    Returns:
      The state; the variables that count, flattened to `float32[V]`; the first step with a
      non-finite loss, or the last one if it left a non-finite variable, or -1; the sum of the
      losses over the steps of the epoch.
    """

    key = jax.random.wrap_key_data(key)

    def step(i: jax.Array, carry: tuple) -> tuple:
        state, failed_step, total = carry
        chosen = i if plan.images is None else plan.images[i]
        row = jax.tree.map(lambda drawn: drawn[i], plan.replace(steps=None, images=None))
        # The mixing weight is the batch's, everything else an image's.
        own = spread((images[chosen], labels[chosen], row.replace(mixup=None)))
        batch = Batch(*own[:2], own[2].replace(mixup=row.mixup))
        after, loss = train_step(
            module, augmentation, state, recipe, batch, stats, plan.steps, key, switches, teacher
        )
        failed = (failed_step < 0) & ~jnp.isfinite(loss)
        return after, jnp.where(failed, state.step, failed_step), total + loss

    start = (state, jnp.int32(-1), jnp.float32(0))
    state, failed_step, total = jax.lax.fori_loop(0, todo, step, start)
    trained = trained_variables(state, recipe)
    # The last update can break what the last loss did not see.
    broken = (failed_step < 0) & ~jnp.isfinite(trained).all()
    return state, trained, jnp.where(broken, state.step - 1, failed_step), total / plan.steps


def _taught(teacher: Teacher, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Targets `float32[B, L]` of which the teacher's answers to images have their share."""
    answers = jax.nn.softmax(teacher.module.apply(teacher.variables, images))
    return teacher.share * answers + (1 - teacher.share) * targets


def augmented(
    arch: ArchSpec | Envelope,
    augmentation: Augmentation,
    recipe: RecipeArrays,
    batch: Batch,
    stats: PixelStats,
) -> tuple[jax.Array, jax.Array]:
    """Returns what the network sees: images `float32[B, R, R, C]` and targets `float32[B, L]`."""
    plan = batch.plan
    images = augment.crop(batch.images, plan.corners, augmentation.crop_padding)
    if augmentation.flip:
        images = augment.flip(images, plan.flips)
    if augmentation.transforms:
        images = transform_batch(images, plan.kinds, plan.signs, augmentation.strength)
    images = augment.normalise(images, stats.mean, stats.std)
    if augmentation.min_area < 1:
        images = augment.crop_resize(images, plan.boxes, arch.resolution)
    else:
        images = augment.resize(images, arch.resolution)
    targets = jax.nn.one_hot(batch.labels, arch.num_classes)
    targets = optax.smooth_labels(targets, recipe.label_smoothing)
    return augment.mix(images, targets, plan.mixup)


def trained_variables(state: TrainState, recipe: RecipeArrays) -> jax.Array:
    """Returns what counts for this recipe, `float32[V]`: the average with EMA, else the last."""
    return jnp.where(recipe.ema > 0, state.averaged, ravel_pytree(state.variables)[0])


def count_correct(
    module: Network,
    variables: Any,
    images: jax.Array,
    labels: jax.Array,
    stats: PixelStats,
    switches: Switches | None = None,
) -> jax.Array:
    """Counts right predictions `int32[]` on `uint8[B, H, W, C]`; a label of -1 is padding."""
    images = augment.normalise(images, stats.mean, stats.std)
    images = augment.resize(images, module.arch.resolution)
    logits = module.apply(variables, images, switches=switches)
    return (logits.argmax(-1) == labels).sum()
