"""One training step, one epoch and one evaluation of a network, as pure functions.

Shapes: B = batch size, H x W x C = stored image, L = classes, V = size of all variables.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

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
from jointnas_jax.nets.init import zero_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import ArchSpec
from jointnas_jax.train.metrics import answers_of, sums_of
from jointnas_jax.train.optimizer import (
    OptimizerState,
    fine_tuning_rates,
    initial_optimizer,
    learning_rate,
    recipe_optimizer,
)
from jointnas_jax.train.recipe_arrays import AnyArray, RecipeArrays

# Streams of a step's key.
_DROPOUT, _STOCHASTIC_DEPTH = range(2)


class PixelStats(flax.struct.PyTreeNode):
    """Mean and standard deviation of the training pixels per channel, `float32[C]` in [0, 255]."""

    mean: AnyArray
    std: AnyArray


class TrainState(flax.struct.PyTreeNode):
    """The evolving state of the training of one network.

    Variables are one vector: to start an operation takes an accelerator a microsecond or more, and
    to pass an argument on takes the host ten, whatever their size.
    """

    step: AnyArray  # int32[], steps taken
    variables: AnyArray  # float32[V], Flax variables as by `flat`: `batch_stats`, then `params`
    averaged: AnyArray  # float32[V], moving average of `variables`
    optimizer: OptimizerState


class Batch(flax.struct.PyTreeNode):
    """One batch before augmentation."""

    images: jax.Array  # uint8[B, H, W, C]
    labels: jax.Array  # int32[B]
    plan: EpochPlan  # the step's row of the epoch's plan, without `steps` and `images`


class Teacher(flax.struct.PyTreeNode):
    """A trained network whose answers another network learns (distillation).

    Answers have a `share` in [0, 1] of the targets, the labels the rest.
    """

    variables: Any
    stats: PixelStats  # statistics of its training images
    module: Network = flax.struct.field(pytree_node=False)
    share: float = flax.struct.field(pytree_node=False)


class EpochInputs(NamedTuple):
    """Inputs of an epoch, or of some of its steps, in one lane, in the order of the program's.

    The plan chooses from N images, or it has no `images` and these are those of its K rows.
    """

    state: TrainState
    recipe: RecipeArrays
    switches: Switches | None  # the architecture inside of an envelope
    images: AnyArray  # uint8[N, H, W, C] or uint8[K, B, H, W, C]
    labels: AnyArray  # int32[N] or int32[K, B]
    stats: PixelStats
    plan: EpochPlan
    todo: AnyArray | np.int32  # int32[], rows of the plan to run
    key: jax.Array  # data of the trial's key
    teacher: Teacher | None


def flat(tree: Any) -> np.ndarray:
    """All leaves of a tree as one vector `float32[V]`, with NumPy, which compiles nothing."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflat(vector: Any, like: Any) -> Any:
    """Inverse of `flat`, given a tree of the same shapes; of NumPy or JAX arrays."""
    leaves, structure = jax.tree.flatten(like)
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
    pieces = vector.__array_namespace__().split(vector, cuts)
    shaped = [p.reshape(leaf.shape) for p, leaf in zip(pieces, leaves, strict=True)]
    return jax.tree.unflatten(structure, shaped)


def init_state(variables: Any) -> TrainState:
    """Returns the state before the first step, on the host, given initial Flax variables."""
    return TrainState(
        step=np.zeros((), np.int32),
        variables=flat(variables),
        averaged=flat(variables),
        optimizer=initial_optimizer(flat(variables["params"]).size),
    )


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    module: Network,
    augmentation: Augmentation,
    recipe: RecipeArrays,
    stats: PixelStats,
    steps_per_epoch: jax.Array,
    key: jax.Array,
    switches: Switches | None = None,
    teacher: Teacher | None = None,
    class_weights: np.ndarray | None = None,
    fine_tunes: bool = False,
) -> tuple[TrainState, jax.Array]:
    """Takes one step; the trial's key is folded with it here.

    The loss counts the targets of each class by its weight, `float32[L]`; None: alike. With
    `fine_tunes` parts of the network have learning rates of their own, see `fine_tuning_rates`.

    Returns:
      The state after the step and the loss `float32[]`.
    """
    key = jax.random.fold_in(key, state.step)
    augment_for = functools.partial(
        augmented,
        batch,
        recipe,
        augmentation,
        parts=module.parts,
        on_cpu=module.lowering == "matmul",
    )
    images, targets = augment_for(arch=module.arch, stats=stats)
    if teacher:
        teacher_images, _ = augment_for(arch=teacher.module.arch, stats=teacher.stats)
        targets = _with_answers(targets, teacher, teacher_images)
    if class_weights is not None:
        targets = targets * class_weights

    variables = unflat(state.variables, zero_variables(module.arch))
    params = variables["params"]

    def loss_of(params: Any) -> tuple[jax.Array, Any]:
        logits, updated = module.apply(
            variables | {"params": params},
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

    rate = learning_rate(recipe, state.step, steps_per_epoch)
    if fine_tunes:
        rate = rate * fine_tuning_rates(params, recipe)
    (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(params)
    change, optimizer = recipe_optimizer().update(
        grads,
        state.optimizer,
        params,
        recipe=recipe,
        learning_rate=rate,
    )
    statistics = ravel_pytree(batch_stats)[0]
    after = jnp.concatenate([statistics, state.variables[statistics.size :] + change])
    # So that the average does not remember the initial weights, its decay is smaller at first.
    decay = jnp.minimum(recipe.ema_decay, (1 + state.step) / (10 + state.step))
    averaged = decay * state.averaged + (1 - decay) * after
    step = state.step + 1
    state = state.replace(step=step, variables=after, averaged=averaged, optimizer=optimizer)
    return state, loss


def train_epoch(
    inputs: EpochInputs,
    *,
    module: Network,
    augmentation: Augmentation,
    spread: Callable[[Any], Any],
    class_weights: np.ndarray | None = None,
    fine_tunes: bool = False,
) -> tuple[TrainState, jax.Array, jax.Array, jax.Array]:
    """Trains in a lane; `spread` shares the images of a batch out to devices.

    Returns:
      The state; the variables that count, flattened to `float32[V]`; the first step with a
      non-finite loss, or the last one if it left a non-finite variable, or -1; the sum of the
      losses over the steps of the epoch.
    """
    key, plan = jax.random.wrap_key_data(inputs.key), inputs.plan

    def step(i: jax.Array, carry: tuple) -> tuple:
        state, failed_step, total = carry
        chosen = i if plan.images is None else plan.images[i]
        row = jax.tree.map(lambda drawn: drawn[i], plan.replace(steps=None, images=None))
        # The mixing weight is the batch's, everything else an image's.
        images, labels, drawn = spread(
            (inputs.images[chosen], inputs.labels[chosen], row.replace(mixup=None))
        )
        after, loss = train_step(
            state,
            Batch(images=images, labels=labels, plan=drawn.replace(mixup=row.mixup)),
            module=module,
            augmentation=augmentation,
            recipe=inputs.recipe,
            stats=inputs.stats,
            steps_per_epoch=plan.steps,
            key=key,
            switches=inputs.switches,
            teacher=inputs.teacher,
            class_weights=class_weights,
            fine_tunes=fine_tunes,
        )
        failed = (failed_step < 0) & ~jnp.isfinite(loss)
        return after, jnp.where(failed, state.step, failed_step), total + loss

    start = (inputs.state, jnp.int32(-1), jnp.float32(0))
    state, failed_step, total = jax.lax.fori_loop(0, inputs.todo, step, start)
    trained = trained_variables(state, inputs.recipe)
    # The last update can break variables that no later loss would show.
    broken = (failed_step < 0) & ~jnp.isfinite(trained).all()
    return state, trained, jnp.where(broken, state.step - 1, failed_step), total / plan.steps


def _with_answers(targets: jax.Array, teacher: Teacher, images: jax.Array) -> jax.Array:
    """Mixes the teacher's answers to images into the targets `float32[B, L]`."""
    logits: Any = teacher.module.apply(teacher.variables, images)
    return teacher.share * jax.nn.softmax(logits) + (1 - teacher.share) * targets


def augmented(
    batch: Batch,
    recipe: RecipeArrays,
    augmentation: Augmentation,
    *,
    arch: ArchSpec | Envelope,
    stats: PixelStats,
    parts: int = 1,
    on_cpu: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """Returns a network's inputs `float32[B, R, R, C]` and targets `float32[B, L]`.

    Devices share the batch in so many parts, see `augment.mix`; `on_cpu` it is cropped as it was
    for the results in docs, see `augment.crop`.
    """
    plan = batch.plan
    padding = augmentation.crop_padding
    images = augment.crop(batch.images, plan.corners, padding, windows=on_cpu)
    if augmentation.flip:
        images = augment.flip(images, plan.flips)
    if plan.kinds is not None and plan.signs is not None:
        strength = augmentation.strength
        images = transform_batch(images, plan.kinds, plan.signs, strength=strength)
    images = augment.normalise(images, stats.mean, stats.std)
    if plan.boxes is not None:
        images = augment.crop_resize(images, plan.boxes, arch.resolution)
    else:
        images = augment.resize(images, arch.resolution)
    targets = jax.nn.one_hot(batch.labels, arch.num_classes)
    targets = optax.smooth_labels(targets, recipe.label_smoothing)
    return augment.mix(images, targets, plan.mixup, parts)


def trained_variables(state: TrainState, recipe: RecipeArrays) -> jax.Array:
    """Returns the variables that count, `float32[V]`: the average with EMA, else the last ones."""
    return jnp.where(recipe.ema > 0, state.averaged, state.variables)


def evaluate(
    module: Network,
    variables: Any,
    switches: Switches | None,
    *,
    images: jax.Array,
    labels: jax.Array,
    stats: PixelStats,
) -> tuple[jax.Array, jax.Array]:
    """Sums of metrics over `uint8[B, H, W, C]`, and answers, see `sums_of` and `answers_of`."""
    images = augment.normalise(images, stats.mean, stats.std)
    images = augment.resize(images, module.arch.resolution)
    logits: Any = module.apply(variables, images, switches=switches)
    return sums_of(logits, labels), answers_of(logits, labels)
