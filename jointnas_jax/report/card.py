"""The model card of an export, in Markdown: the network, its accuracy, its use."""

import importlib.util
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from jointnas_jax.errors import ConfigError, ModelError, nearest, needs_extra, one_line
from jointnas_jax.nets.cost import count
from jointnas_jax.report.architecture import COLUMNS, arch_rows
from jointnas_jax.report.words import METRICS, mean_and_std
from jointnas_jax.space import ArchSpec

CARD = "model_card.md"
# Names of the formats, in the order in which a card explains them.
FORMATS = ("orbax", "safetensors", "stablehlo", "onnx")


def check_formats(names: Sequence[str]) -> None:
    """Raises an `InputError` for an unknown format, for none, or where a package is missing."""
    if not names:
        raise ConfigError(f"give --format=; known: {', '.join(FORMATS)}, also several: orbax,onnx")
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"there is no format `{one_line(name)}`{nearest(name, FORMATS)}")
    if "onnx" in names:
        require_onnx()


def require_onnx() -> None:
    """Raises `ModelError` if a package for ONNX is not installed."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(needs_extra("ONNX", package, "onnx"))


def model_card(description: Mapping[str, Any]) -> str:
    """Returns the card of an export, given the content of its `model.json`.

    The template `card.md` leaves out what the metadata lacks.
    """
    metadata, arch = description["facts"], ArchSpec.from_dict(description["arch"])
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "code": lambda value: "`" + one_line(value).replace("`", "'").replace("|", "\\|") + "`",
        "percent": "{:.2%}".format,
        "spread": mean_and_std,
        "text": _text,
        "thousands": "{:,}".format,
        "vector": lambda values: "(" + ", ".join(f"{v:.6g}" for v in values) + ")",
    }
    template = files("jointnas_jax.report").joinpath("card.md").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        description,
        metadata=metadata,
        measured=metadata.get("accuracy") is not None,
        metric=METRICS[metadata.get("metric", "accuracy")],
        dataset=metadata.get("dataset", {}),
        data=metadata.get("data", {}),
        arch=arch,
        costs=count(arch),
        columns=COLUMNS,
        rows=arch_rows(arch),
        height=description["image_size"][0],
        width=description["image_size"][1],
    )


def _text(foreign: object) -> str:
    """Names from outside, on one line, without Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in one_line(foreign))
