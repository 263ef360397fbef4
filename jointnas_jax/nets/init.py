"""The variables of a network: their shapes, and their initial values, drawn on the host."""

import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.space import ArchSpec


def variable_shapes(arch: ArchSpec | Envelope) -> dict[str, Any]:
    """Returns the shapes of the Flax variables of `Network(arch)`, `params` and `batch_stats`.

    Written out, because asking Flax costs a trace of the network for every candidate.
    """
    dense = lambda a, b: {"kernel": (a, b), "bias": (b,)}
    stem, head, width = arch.stem, arch.head, arch.head_hidden
    params: dict[str, Any] = {
        "stem": (stem.kernel, stem.kernel, arch.image_channels, stem.channels)
    }
    params["stem_bn"] = _batch_norm(stem.channels)
    out = stem.channels
    for b in arch.blocks():
        block: dict[str, Any] = {}
        if b.expands:
            block["expand"] = {"kernel": (b.in_channels, b.hidden)}
            block["expand_bn"] = _batch_norm(b.hidden)
        block["depthwise"] = {"kernel": (b.kernel, b.kernel, b.hidden)}
        block["depthwise_bn"] = _batch_norm(b.hidden)
        if b.se_channels:
            block["se"] = {
                "reduce": dense(b.hidden, b.se_channels),
                "expand": dense(b.se_channels, b.hidden),
            }
        block["project"] = {"kernel": (b.hidden, b.out_channels)}
        block["project_bn"] = _batch_norm(b.out_channels)
        params[b.name] = block
        out = b.out_channels
    params["head_expand"] = {"kernel": (out, width)}
    params["head_bn"] = _batch_norm(width)
    params["head_project"] = {"kernel": (width, head.channels)}
    params["classifier"] = dense(head.channels, arch.num_classes)
    return {"params": params, "batch_stats": _statistics(params)}


def initial_variables(arch: ArchSpec, key: jax.Array) -> Any:
    """Draws the variables that a network starts from: He-normal kernels, BN at the identity.

    NumPy draws on the host: compiling one draw for each kernel took 4.8 seconds for five blocks,
    and these draws are the same on every backend. The key of a kernel is made of `key` and its
    name: the draws of a block do not depend on the other blocks.

    Returns:
      Flax variables (NumPy arrays): `params` and `batch_stats`. The key is consumed.
    """
    seed = np.asarray(jax.random.key_data(key)).tolist()
    # The last BN before a residual is added starts at zero: the block starts as the identity.
    silent = {f"params/{b.name}/project_bn/scale" for b in arch.blocks() if b.residual}

    def fill(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if len(shape) > 1:
            rng = np.random.default_rng([*seed, zlib.crc32(path.encode())])
            std = math.sqrt(2.0 / fan_in(shape))
            return rng.standard_normal(shape, np.float32) * np.float32(std)
        one = path.endswith(("/scale", "/var")) and path not in silent
        return np.full(shape, one, np.float32)

    return map_shapes(fill, variable_shapes(arch))


def zero_variables(arch: ArchSpec | Envelope) -> Any:
    """Returns variables of the right shapes, all zero (NumPy arrays)."""
    return map_shapes(lambda _, shape: np.zeros(shape, np.float32), variable_shapes(arch))


def fan_in(shape: tuple[int, ...]) -> int:
    """Inputs of one output: k*k of a depthwise `[k, k, C]`, else all axes but the last."""
    return shape[0] * shape[1] if len(shape) == 3 else math.prod(shape[:-1])


def _batch_norm(width: int) -> dict[str, tuple[int, ...]]:
    return {"scale": (width,), "bias": (width,)}


def _statistics(params: Mapping[str, Any]) -> dict[str, Any]:
    """The running statistics of every BN in `params`, at the same place."""
    statistics: dict[str, Any] = {}
    for name, value in params.items():
        if name.endswith("_bn"):
            statistics[name] = {"mean": value["scale"], "var": value["scale"]}
        elif isinstance(value, Mapping) and (inner := _statistics(value)):
            statistics[name] = inner
    return statistics


def map_shapes(function: Any, shapes: Any, path: str = "") -> Any:
    """Applies `function(path, shape)` to every leaf; a path is `params/stem_bn/scale`."""
    if isinstance(shapes, Mapping):
        return {k: map_shapes(function, v, f"{path}/{k}" if path else k) for k, v in shapes.items()}
    return function(path, shapes)
