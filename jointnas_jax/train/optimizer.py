"""The optimizer of a recipe: SGD or RMSProp, both with momentum, chosen by an array."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jointnas_jax.nets.inherit import CLASSIFIER, STEM
from jointnas_jax.train.recipe_arrays import AnyArray, RecipeArrays

MOMENTUM = 0.9
RMS_DECAY = 0.9
# Inside the square root, as in the RMSProp of EfficientNet and FBNetV3 training code.
RMS_EPSILON = 1e-3


class OptimizerState(NamedTuple):
    """State of `recipe_optimizer`, each part flattened to `float32[P]`."""

    rms: optax.OptState  # moving average of squared gradients
    momentum: optax.OptState  # accumulated updates


def recipe_optimizer() -> optax.GradientTransformationExtraArgs:
    """Builds the optimizer; `update` takes the recipe and the step's learning rate as arrays.

    The rate is one number, or one for each parameter, `float32[P]`. Gradients and parameters are
    trees; what `update` returns to be added is flattened to `float32[P]`, as the parameters are
    between steps.

    Weight decay is coupled (L2): its gradient is added before the optimizer sees it, as PyTorch's
    SGD and RMSProp do, on kernels only and not on BN or biases. The learning rate multiplies before
    momentum: with a constant rate this equals `optax.rmsprop` and `optax.sgd`.

    All parameters are one vector here: a few operations on it compile far faster than the same
    operations on each of a hundred parameters.
    """
    rms = optax.scale_by_rms(decay=RMS_DECAY, eps=RMS_EPSILON, initial_scale=1.0)
    trace = optax.trace(decay=MOMENTUM)

    def init(params: Any) -> OptimizerState:
        flat = ravel_pytree(params)[0]
        return OptimizerState(rms.init(flat), trace.init(flat))

    def update(
        grads: Any,
        state: OptimizerState,
        params: Any,
        *,
        recipe: RecipeArrays,
        learning_rate: AnyArray,
    ) -> tuple[jax.Array, OptimizerState]:
        grads = jax.tree.map(
            lambda g, p: g + recipe.weight_decay * p if is_kernel(p) else g, grads, params
        )
        flat = ravel_pytree(grads)[0]
        scaled, rms_state = rms.update(flat, state.rms)
        direction = jnp.where(recipe.rmsprop > 0, scaled, flat)
        steps, trace_state = trace.update(learning_rate * direction, state.momentum)
        return -steps, OptimizerState(rms_state, trace_state)

    return optax.GradientTransformationExtraArgs(init, update)


def initial_optimizer(size: int) -> OptimizerState:
    """The result of `recipe_optimizer().init` for `size` parameters, without compiling."""
    fill = lambda array, value: np.full(array.shape, value, array.dtype)
    shapes = jax.eval_shape(recipe_optimizer().init, np.zeros(size, np.float32))
    rms = jax.tree.map(lambda a: fill(a, 1.0), shapes.rms)
    return OptimizerState(rms, jax.tree.map(lambda a: fill(a, 0.0), shapes.momentum))


def fine_tuning_rates(params: Any, recipe: RecipeArrays) -> jax.Array:
    """Factors on the learning rate of each parameter, `float32[P]`, for use under `jit`.

    The classifier has the whole rate, the rest `body_lr` of it, and what lies before `frozen` of
    the network none. Parts lie at equal distances: stem, blocks, head.
    """
    order = [name for name in params if not name.endswith("_bn") and name != CLASSIFIER]
    depth = {name: place / max(len(order) - 1, 1) for place, name in enumerate(_by_depth(order))}

    def rate(path: Any, leaf: Any) -> jax.Array:
        part = path[0].key.removesuffix("_bn")
        if part == CLASSIFIER:
            return jnp.ones(leaf.size)
        place = depth.get(part, depth.get(f"{part}_expand", 1.0))
        return jnp.full(leaf.size, jnp.where(place < recipe.frozen, 0.0, recipe.body_lr))

    rates = jax.tree_util.tree_map_with_path(rate, params)
    return jnp.concatenate(jax.tree.leaves(rates))


def _by_depth(names: Sequence[str]) -> list[str]:
    """Names of a network's parts from the images on; blocks are named by stage and position."""
    place = {STEM: 0, "head_expand": 2, "head_project": 3}
    numbers = lambda name: [int(n) for n in re.findall(r"\d+", name)]
    return sorted(names, key=lambda name: (place.get(name, 1), numbers(name)))


def is_kernel(param: jax.Array) -> bool:
    """Whether weight decay acts on a parameter: kernels have two axes or more, others one."""
    return param.ndim > 1


def learning_rate(recipe: RecipeArrays, step: AnyArray, steps_per_epoch: jax.Array) -> AnyArray:
    """Learning rate `float32[]` of a step: linear warm-up times exponential decay per epoch."""
    epoch = jnp.floor(step / steps_per_epoch)
    warmup_steps = recipe.warmup_epochs * steps_per_epoch
    warmup = jnp.minimum(1.0, (step + 1) / jnp.maximum(warmup_steps, 1.0))
    return recipe.lr * warmup * recipe.lr_decay**epoch
