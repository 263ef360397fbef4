"""Weights in timm's layout (`fbnetv3_b`, `fbnetv3_d`, `fbnetv3_g`) as variables of our network.

Names and shapes are those of a state dict of timm 1.0 (`models/mobilenetv3.py` and
`models/_efficientnet_blocks.py` there). A file of weights is foreign: every name, shape, type and
value in it is checked.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from jointnas_jax.errors import ModelError, one_line
from jointnas_jax.nets.init import map_shapes, variable_shapes
from jointnas_jax.space import ArchSpec

# Far above the 67 MB of the largest network, far below the memory of a machine.
_MAX_BYTES = 1 << 30
_FLOATS = ("float16", "bfloat16", "float32", "float64")
# Batches seen in training, which timm stores with each BN; nothing depends on it.
_UNUSED = ".num_batches_tracked"

_LEAVES = {
    "kernel": "weight",
    "bias": "bias",
    "scale": "weight",
    "mean": "running_mean",
    "var": "running_var",
}
_SE = {"se/reduce": "se.conv_reduce", "se/expand": "se.conv_expand"}
_EXPANDING = {
    "expand": "conv_pw",
    "expand_bn": "bn1",
    "depthwise": "conv_dw",
    "depthwise_bn": "bn2",
    "project": "conv_pwl",
    "project_bn": "bn3",
    **_SE,
}
# Without an expansion timm counts and names the other layers differently.
_SEPARABLE = {
    "depthwise": "conv_dw",
    "depthwise_bn": "bn1",
    "project": "conv_pw",
    "project_bn": "bn2",
    **_SE,
}


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file, by name.

    Raises:
      ModelError: it is missing, above 1 GiB, damaged, or of another kind. Pickles (`.pth`, `.bin`)
        are never opened: reading one can run code.
    """
    try:
        if (size := path.stat().st_size) > _MAX_BYTES:
            raise ModelError(f"weights may have {_MAX_BYTES:,} bytes, `{path}` has {size:,}")
        return load_file(path)
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"weights `{path}` cannot be read: {one_line(error)}") from error
    except Exception as error:  # a type that NumPy lacks is an AttributeError
        raise ModelError(
            f"`{path}` is not a sound safetensors file ({one_line(error)}); a pickle (.pth, .bin) "
            "is refused because reading it can run code: get the weights as .safetensors"
        ) from error


def class_count(tensors: Mapping[str, np.ndarray]) -> int:
    """Number of classes of the classifier in `tensors`; raises `ModelError` if there is none."""
    bias = tensors.get("classifier.bias")
    if bias is None or bias.ndim != 1 or not len(bias):
        shape = "there is none" if bias is None else f"it has the shape {bias.shape}"
        raise ModelError(f"`classifier.bias` must have one number for each class; {shape}")
    return len(bias)


def from_timm(tensors: Mapping[str, np.ndarray], arch: ArchSpec) -> dict[str, Any]:
    """Returns the Flax variables of `Network(arch)` as NumPy arrays `float32`.

    Tensors by timm's names have any floating type. Timm pads all convolutions by (k-1)/2, see
    `zoo.fbnetv3`.

    Raises:
      ModelError: a tensor is missing, of another shape or type, not finite, or too many.
    """
    _check_names(tensors, timm_shapes(arch))
    modules = _modules(arch)

    def convert(path: str, shape: tuple[int, ...]) -> np.ndarray:
        tensor = _to_float32(name := _name(path, modules), tensors[name])
        if path.endswith("/var") and (tensor < 0).any():
            raise ModelError(f"tensor `{name}` is a variance and must not be negative")
        # Output channels come first, in a kernel [O, I, k, k] as in a dense layer [O, I].
        moved = tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        return np.ascontiguousarray(moved).reshape(shape)

    return map_shapes(convert, variable_shapes(arch))


def timm_shapes(arch: ArchSpec) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of a network's tensors in timm's layout."""
    modules, shapes = _modules(arch), {}

    def add(path: str, shape: tuple[int, ...]) -> None:
        shapes[_name(path, modules)] = _timm_shape(path, shape)

    map_shapes(add, variable_shapes(arch))
    return shapes


def _modules(arch: ArchSpec) -> dict[str, str]:
    """Path of each module -> timm's name of it."""
    last = len(arch.stages)
    modules = {
        "stem_bn": "bn1",
        "head_expand": f"blocks.{last - 1}.0.conv",
        "head_bn": f"blocks.{last - 1}.0.bn1",
        "head_project": "conv_head",
        "classifier": "classifier",
    }
    for b in arch.blocks():
        stage, index = b.stage - 1, b.index
        if b.stage == last:  # timm counts these blocks with those of the stage before
            stage, index = stage - 1, index + arch.stages[-2].depth
        for ours, theirs in (_EXPANDING if b.expands else _SEPARABLE).items():
            modules[f"{b.name}/{ours}"] = f"blocks.{stage}.{index}.{theirs}"
    return modules


def _name(path: str, modules: Mapping[str, str]) -> str:
    """Timm's name of the tensor at `path`, such as `params/stem_bn/scale`."""
    if path == "params/stem":
        return "conv_stem.weight"
    module, leaf = path.split("/", 1)[1].rsplit("/", 1)
    return f"{modules[module]}.{_LEAVES[leaf]}"


def _timm_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Timm's shape of the tensor at `path`: its only dense layer is the classifier."""
    if len(shape) == 1 or path.startswith("params/classifier/"):
        return shape[::-1]
    if len(shape) == 3:  # depthwise
        return (shape[2], 1, *shape[:2])
    return (shape[-1], shape[-2], *(shape[:2] if len(shape) == 4 else (1, 1)))


def _check_names(
    tensors: Mapping[str, np.ndarray], expected: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in expected.items():
        if name not in tensors:
            raise ModelError(f"the weights lack the tensor `{name}` of shape {shape}")
        if tensors[name].shape != shape:
            raise ModelError(
                f"tensor `{name}` must have the shape {shape}, got {tensors[name].shape}; "
                "is this the file of another network?"
            )
    for name in tensors:
        if name not in expected and not name.endswith(_UNUSED):
            raise ModelError(
                f"the weights have a tensor `{one_line(name)}` of shape {tensors[name].shape}, "
                "which the network lacks"
            )


def _to_float32(name: str, tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.name not in _FLOATS:
        raise ModelError(f"tensor `{name}` must be one of {_FLOATS}, got {tensor.dtype.name}")
    with np.errstate(over="ignore"):  # the next check sees it
        tensor = tensor.astype(np.float32)
    if not np.isfinite(tensor).all():
        raise ModelError(f"tensor `{name}` must be finite as float32")
    return tensor
