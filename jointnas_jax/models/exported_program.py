"""A trained network as a program that needs neither this package nor its weights.

The program takes `uint8[N, H, W, C]`, images as the dataset stores them, normalises and resizes
them, and returns logits `float32[N, L]`. N is free, or fixed by the export.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from jointnas_jax.files import read_checked
from jointnas_jax.models.model import Classifier, Model
from jointnas_jax.report.card import require_onnx
from jointnas_jax.space import ArchSpec

STABLEHLO, ONNX = "model.stablehlo", "model.onnx"
_PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(model: Model, batch_size: int = 0) -> bytes:
    """Serializes the program by `jax.export`, for CPU, CUDA and TPU, without derivatives.

    The `batch_size` is N; 0: any.
    """
    (count,) = (batch_size,) if batch_size else export.symbolic_shape("N")
    images = jax.ShapeDtypeStruct((count, *model.image_size, model.arch.image_channels), np.uint8)

    def program(images: jax.Array) -> Any:
        return model.module.apply(model.variables, model.preprocess(images))

    exported = export.export(jax.jit(program), platforms=_PLATFORMS)(images)
    return bytes(exported.serialize(vjp_order=0))


def to_onnx(model: Model, batch_size: int = 0) -> bytes:
    """Writes the program as an ONNX graph; raises `ModelError` where ONNX is not installed."""
    require_onnx()
    from jointnas_jax.models.onnx_graph import onnx_graph

    return onnx_graph(model, batch_size)


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
            return session.run(None, {session.get_inputs()[0].name: images})[0]

    return ExportedProgram(
        run=run,
        batch_size=data["batch_size"],
        arch=ArchSpec.from_dict(data["arch"]),
        image_size=tuple(data["image_size"]),
        crop=data["crop"],
        labels=tuple(data["labels"]),
    )
