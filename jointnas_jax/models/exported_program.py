"""A trained network as a program that needs neither this package nor its weights.

The program takes `uint8[N, H, W, C]`, images as the dataset stores them, normalises and resizes
them, and returns logits `float32[N, L]`. N is free, or fixed by the export.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jointnas_jax.data import augment
from jointnas_jax.files import read_checked
from jointnas_jax.models.model import Classifier, Model
from jointnas_jax.report.card import require_onnx
from jointnas_jax.space import ArchSpec

STABLEHLO, ONNX = "model.stablehlo", "model.onnx"
# Names of the input, the output and the number of images in the ONNX graph.
_IMAGES, _LOGITS, _BATCH = "images", "logits", "N"
_PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(model: Model, batch_size: int = 0) -> bytes:
    """Serializes the program by `jax.export`, for CPU, CUDA and TPU, without derivatives.

    The `batch_size` is N; 0: any.
    """
    (count,) = (batch_size,) if batch_size else export.symbolic_shape(_BATCH)
    images = jax.ShapeDtypeStruct((count, *model.image_size, model.arch.image_channels), np.uint8)

    def program(images: jax.Array) -> Any:
        return model.module.apply(model.variables, model.preprocess(images))

    exported = export.export(jax.jit(program), platforms=_PLATFORMS)(images)
    return bytes(exported.serialize(vjp_order=0))


def to_onnx(model: Model, batch_size: int = 0) -> bytes:
    """Converts the program to an ONNX graph by jax2onnx; raises `ModelError` without it."""
    require_onnx()
    # These warn of plugins for other libraries, and of every dimension that depends on N.
    for name in ("jax2onnx", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import jax2onnx
    import onnx

    images = (batch_size or _BATCH, *model.image_size, model.arch.image_channels)
    weights = jax.tree.map(np.asarray, model.variables)
    mean, std = (np.asarray(values, np.float32) for values in (model.mean, model.std))
    resize = _resizing(model.image_size, model.arch.resolution)

    def program(images: jax.Array) -> Any:
        return model.module.apply(weights, resize(augment.normalise(images, mean, std)))

    graph = jax2onnx.to_onnx(
        program,
        [jax.ShapeDtypeStruct(images, np.uint8)],
        model_name="jointnas_jax",
        input_names=[_IMAGES],
        output_names=[_LOGITS],
    )
    onnx.helper.set_model_props(graph, {"labels": "\n".join(model.labels)})
    onnx.checker.check_model(graph, full_check=True)
    return graph.SerializeToString()


def _resizing(size: tuple[int, int], resolution: int) -> Callable[[jax.Array], jax.Array]:
    """`augment.resize` of H x W to R x R as two matmuls: converters sample at other places.

    Returns:
      `float32[N, H, W, C]` -> `float32[N, R, R, C]`.
    """
    if size == (resolution, resolution):
        return lambda images: images
    # Weights of each row, or column, in the result: float32[H, R], float32[W, R].
    rows, columns = (
        np.asarray(augment.resize(jnp.eye(n)[:, :, None, None], resolution)[:, :, 0, 0])
        for n in size
    )

    def resize(images: jax.Array) -> jax.Array:
        images = jnp.tensordot(images, rows, ((1,), (0,)))  # [N, W, C, R]
        return jnp.tensordot(images, columns, ((1,), (0,))).transpose(0, 2, 3, 1)

    return resize


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportedProgram(Classifier):
    """An exported program.

    Attributes:
      run: `uint8[N, H, W, C]` -> logits `float32[N, L]`.
      batch_size: N; 0: any.
    """

    run: Callable[[np.ndarray], np.ndarray]
    batch_size: int

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns `float32[N, L]` for any number of images `uint8[N, H, W, C]`."""
        count = len(images)
        size = self.batch_size or count
        missing = math.ceil(count / size) * size - count
        padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)])
        batches = padded.reshape(-1, size, *images.shape[1:])
        return np.concatenate([self.run(batch) for batch in batches])[:count]


def load_program(folder: Path, data: Mapping[str, Any]) -> ExportedProgram:
    """Loads the program of an export, given its `model.json`; raises as `load_classifier` does."""
    if "stablehlo" in data["formats"]:
        content = read_checked(folder / STABLEHLO, data["files"][STABLEHLO])
        exported = export.deserialize(bytearray(content))

        def run(images: np.ndarray) -> np.ndarray:
            return np.asarray(exported.call(images))

    else:
        require_onnx()
        import onnxruntime

        content = read_checked(folder / ONNX, data["files"][ONNX])
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

        def run(images: np.ndarray) -> np.ndarray:
            return session.run([_LOGITS], {_IMAGES: images})[0]

    return ExportedProgram(
        run=run,
        batch_size=data["batch_size"],
        arch=ArchSpec.from_dict(data["arch"]),
        image_size=tuple(data["image_size"]),
        crop=data["crop"],
        labels=tuple(data["labels"]),
    )
