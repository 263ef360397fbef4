"""Initial weights of a network, drawn on the host."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jointnas_jax.nets.network import Network


def constant_variables(module: Network) -> Any:
    """Returns the network's Flax variables, kernels at zero.

    BN and biases start at the module's own constants.
    """
    arch = module.arch
    shape = (1, arch.resolution, arch.resolution, arch.image_channels)

    def constants() -> Any:
        variables = module.init(jax.random.key(0), jnp.zeros(shape))
        return jax.tree.map(lambda v: jnp.zeros_like(v) if v.ndim > 1 else v, variables)

    return jax.tree.map(np.asarray, jax.jit(constants)())


def draw_kernels(variables: Any, key: jax.Array) -> Any:
    """Fills the kernels with He-normal draws, the distribution that `Network.init` uses.

    NumPy draws on the host: compiling one draw for each kernel took 4.8 seconds for five blocks,
    and these draws are the same on every backend.

    Args:
      variables: of `constant_variables`.
      key: consumed.

    Returns:
      Flax variables (NumPy arrays): `params` and `batch_stats`.
    """
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))

    def fill(leaf: np.ndarray) -> np.ndarray:
        if leaf.ndim == 1:
            return leaf
        std = math.sqrt(2.0 / fan_in(leaf.shape))
        return rng.standard_normal(leaf.shape, np.float32) * np.float32(std)

    return jax.tree.map(fill, variables)


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs of one output: k*k of a depthwise `[k, k, C]`, else all axes but the last."""
    return shape[0] * shape[1] if len(shape) == 3 else math.prod(shape[:-1])
