"""The model card of an export: what the network is, what it reached, how to use it; Markdown."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jointnas_jax.errors import ConfigError, ModelError, nearest, one_line
from jointnas_jax.nets.cost import count
from jointnas_jax.report.architecture import COLUMNS, arch_rows
from jointnas_jax.space import ArchSpec

CARD = "model_card.md"
# Names of the formats, in the order in which a card explains them.
FORMATS = ("orbax", "safetensors", "stablehlo", "onnx")
# Labels that a card lists; `model.json` has all.
_LABELS = 20

_FOUND = {
    "joint": "Architecture and recipe were found together",
    "arch": "The architecture was found for one recipe",
    "recipe": "The recipe was found for this architecture",
}
_USE = {
    "orbax": """**Orbax** (`weights/`): the Flax variables, `params` and `batch_stats`.

```python
import jointnas_jax

model = jointnas_jax.load("THIS_FOLDER")
module, variables = model  # a Flax module and its variables
logits = module.apply(variables, model.preprocess(images))
model.labels, model.mean, model.std
```

Without this package: `orbax.checkpoint.v1.load`, given the absolute path of `weights/`.""",
    "safetensors": """**safetensors** (`model.safetensors`): the same variables by flat names like
`params/stem_bn/scale`; architecture, pixel statistics and labels are JSON in its metadata.

```python
import jointnas_jax

module, variables = model = jointnas_jax.load("THIS_FOLDER")
logits = module.apply(variables, model.preprocess(images))
```

Without this package: `safetensors.numpy.load_file`.""",
    "stablehlo": """**StableHLO** (`model.stablehlo`): the whole program, as `jax.export` writes it,
for CPU, CUDA and TPU. It needs JAX and the package flatbuffers, and nothing of this package; it
has no derivatives.

```python
from pathlib import Path

import jax.export

program = jax.export.deserialize(bytearray(Path("THIS_FOLDER/model.stablehlo").read_bytes()))
logits = program.call(images)
```""",
    "onnx": """**ONNX** (`model.onnx`): the whole program as a graph, from `images` to `logits`; its
metadata has the labels, one a line.

```python
import onnxruntime

session = onnxruntime.InferenceSession("THIS_FOLDER/model.onnx")
(logits,) = session.run(["logits"], {"images": images})
```""",
}


def check_formats(names: Sequence[str]) -> None:
    """Raises an `InputError` if there is no such format, or none, or a package for one is missing.

    It takes no time, unlike what comes after it.
    """
    if not names:
        raise ConfigError(f"give --format=; known: {', '.join(FORMATS)}, also several: orbax,onnx")
    for name in names:
        if name not in FORMATS:
            raise ConfigError(f"there is no format `{one_line(name)}`{nearest(name, FORMATS)}")
    if "onnx" in names:
        require_onnx()


def require_onnx() -> None:
    """Raises `ModelError` if what writes and runs ONNX is not installed."""
    for package in ("jax2onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise ModelError(
                f'ONNX needs the package {package}; install the extra: pip install -e ".[onnx]"'
            )


def model_card(description: Mapping[str, Any]) -> str:
    """Writes the card of an export.

    Args:
      description: content of its `model.json`. What `facts` lack, the card leaves out.
    """
    facts, arch = description["facts"], ArchSpec.from_dict(description["arch"])
    sections = (
        _head(facts, arch),
        "## Use\n\n" + "\n\n".join(_USE[name] for name in description["formats"]),
        _images(description, arch),
        _data(facts, description),
        _accuracy(facts),
        _costs(facts, arch),
        _recipe(facts),
        _network(arch),
        _search(facts),
        _limits(facts, description),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(facts: Mapping[str, Any], arch: ArchSpec) -> str:
    name, accuracy = facts.get("study"), facts.get("accuracy")
    title = f"# {_text(name)}" if name else "# An image classifier"
    if "winner" in facts:
        title += f", winner {facts['winner']}"
    costs = count(arch)
    where = facts.get("dataset", {}).get("name")
    lines = [
        f"A convolutional network (MBConv blocks, after FBNetV3) of {costs.flops:,} FLOPs and "
        f"{costs.params:,} params that tells {arch.num_classes} classes of images apart."
    ]
    if accuracy is not None:
        seeds = f" ({_spread(facts['test'])} over its seeds)" if facts.get("test") else ""
        lines.append(
            f"Test accuracy{f' on {_text(where)}' if where else ''}: {accuracy:.2%}{seeds}."
        )
    if facts.get("mode") in _FOUND:
        lines.append(f"{_FOUND[facts['mode']]} by jointnas_jax.")
    return title + "\n\n" + " ".join(lines)


def _images(description: Mapping[str, Any], arch: ArchSpec) -> str:
    (height, width), channels = description["image_size"], arch.image_channels
    resolution, size = arch.resolution, description["batch_size"]
    mean, std = (_numbers(description["pixels"][name]) for name in ("mean", "std"))
    resized = "They have this size already: nothing is resized."
    if (height, width) != (resolution, resolution):
        resized = (
            f"The result is resized to {resolution} x {resolution}, bilinear with anti-aliasing "
            '(`jax.image.resize(..., "bilinear")`).'
        )
    crop = description["crop"]
    share = f"the middle, {crop:.0%} of the shorter side" if crop else "the whole image"
    return f"""## What goes in, what comes out

`images` are `uint8[N, {height}, {width}, {channels}]`, as the dataset stores them, values 0 to
255; N is {size or "any number"} in the programs (StableHLO, ONNX). Normalising and resizing are
part of the programs; for the weights `model.preprocess` does the same:

1. Each channel: `(pixel - mean) / std`, mean {mean}, std {std}.
2. {resized}

`logits` are `float32[N, {arch.num_classes}]`, **without softmax**; class i is label i of
`model.json`. An image file of another size is first brought to {height} x {width} ({share},
bilinear with anti-aliasing): `python scripts/classify.py --model=THIS_FOLDER image.png`."""


def _data(facts: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    labels = description["labels"]
    more = f", and {len(labels) - _LABELS} more" if len(labels) > _LABELS else ""
    rows = [("classes", f"{len(labels)}: {', '.join(map(_text, labels[:_LABELS]))}{more}")]
    dataset, data = facts.get("dataset", {}), facts.get("data", {})
    if dataset.get("name"):
        shape = " x ".join(map(str, dataset.get("image_shape") or ())) or "see above"
        rows.insert(0, ("dataset", f"{_text(dataset['name'])}, images {shape}"))
    if data:
        held = data.get("val_images") or f"{data['val_fraction']:.0%}"
        rows += [
            ("trained on", f"{_code(data['train_split'])}, all of it"),
            ("searched on", f"the same less {held} for validation") if "winner" in facts else None,
            ("tested on", f"{_code(data['test_split'])}, once, at the end"),
            ("augmentation", _augmentation(data)),
        ]
    return "## Data\n\n" + _table(("", ""), filter(None, rows))


def _augmentation(data: Mapping[str, Any]) -> str:
    kinds = {
        "crop_padding": lambda v: f"shifts by up to {v} px",
        "flip": lambda _: "mirroring",
        "min_area": lambda v: f"crops of at least {v:.0%} of the area" if v < 1 else "",
        "transforms": lambda v: f"RandAugment, {v} transformations",
    }
    used = (say(data[name]) for name, say in kinds.items() if data.get(name))
    return ", ".join(filter(None, used)) or "none, but for what the recipe says"


def _accuracy(facts: Mapping[str, Any]) -> str:
    if facts.get("accuracy") is None:
        return "## Accuracy\n\nNot measured."
    if not facts.get("test"):
        return f"## Accuracy\n\n{facts['accuracy']:.2%} on the test images, of one training."
    rows = [("this network", _spread(facts["validation"]), _spread(facts["test"]), "")]
    for reference in facts["references"].values():
        verdict = f"the search {reference['verdict']} it" if reference["verdict"] else ""
        rows.append((_text(reference["source"]), "", _spread(reference["test"]), verdict))
    seeds = len(facts["test"]["seeds"])
    return (
        f"## Accuracy\n\nThe weights here are of seed {facts['seed']}: "
        f"**{facts['accuracy']:.2%}** on the test images. Mean and standard deviation of {seeds} "
        "trainings that differ in their seed; validation is of trainings without the validation "
        "images:\n\n" + _table(("", "validation", "test", "verdict"), rows)
    )


def _costs(facts: Mapping[str, Any], arch: ArchSpec) -> str:
    costs, budget = count(arch), facts.get("budget", {})
    rows = [
        ("FLOPs", f"{costs.flops:,}", "one per multiply-add, by FBNetV3's official rule"),
        ("params", f"{costs.params:,}", "weights of convolutions and classifier"),
        ("params in all", f"{costs.params_total:,}", f"{4 * costs.params_total:,} bytes, float32"),
    ]
    rows += [(f"budget of {name}", f"{limit:,}", "") for name, limit in budget.items()]
    text = "## Budget and costs\n\n" + _table(("", "", ""), rows)
    return text + ("\n\n**It is over the budget.**" if facts.get("within_budget") is False else "")


def _recipe(facts: Mapping[str, Any]) -> str:
    if not facts.get("recipe"):
        return "## Recipe\n\nNot known."
    rows: list[tuple[str, Any]] = list(facts["recipe"].items())
    epochs, train = facts["epochs"], facts.get("train", {})
    rows += [("epochs", epochs["final"])] if epochs.get("final") else []
    rows += [(name.replace("_", " "), _text(value)) for name, value in train.items() if value]
    note = ""
    if epochs.get("search") and epochs["search"] != epochs.get("final"):
        note = (
            f"\n\n`lr_decay` is per epoch of {epochs['search']}; in the training of "
            f"{epochs['final']} epochs the learning rate decays as much over all of them."
        )
    return "## Recipe\n\n" + _table(("", ""), rows) + note


def _network(arch: ArchSpec) -> str:
    stages = ", ".join(f"stage {i} {s.activation}" for i, s in enumerate(arch.stages, start=1))
    return (
        f"## Network\n\n{_table(COLUMNS, arch_rows(arch))}\n\n"
        f"Activations: stem {arch.stem.activation}, {stages}, head {arch.head.activation}."
    )


def _search(facts: Mapping[str, Any]) -> str:
    if "winner" not in facts:
        return ""
    parts = [
        f"mode `{facts['mode']}`" if facts.get("mode") else "",
        f"seed {facts['study_seed']}" if facts.get("study_seed") is not None else "",
        f"{facts['trials']} trainings" if facts.get("trials") else "",
        f"{facts['seconds']:,.0f} seconds in all" if facts.get("seconds") else "",
    ]
    found = ", ".join(filter(None, parts))
    return f"## Search\n\n{found.capitalize()}." if found else ""


def _limits(facts: Mapping[str, Any], description: Mapping[str, Any]) -> str:
    dataset = facts.get("dataset", {}).get("name")
    like = f"those of {_text(dataset)}" if dataset else "those that it was trained on"
    lines = [
        f"It knows the {len(description['labels'])} classes above and nothing else: an image of "
        "something else gets one of them.",
        f"Accuracy holds for images like {like}. Other cameras, crops, sizes or lighting were not "
        "tested, nor were robustness, fairness or safety.",
        "Softmax of the logits is no calibrated probability.",
        "FLOPs are no latency: measure on your device.",
    ]
    if facts.get("test"):
        lines.append(
            "The winner was chosen by validation accuracy, which therefore flatters it; test "
            "images were used once, after the choice."
        )
    if facts.get("accuracy") is None:
        lines.append("Its accuracy was not measured here.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)


def _spread(statistics: Mapping[str, Any] | None) -> str:
    if not statistics or statistics["mean"] is None:
        return "not known"
    std = statistics["std"]
    return f"{statistics['mean']:.2%}" + (f" ± {std:.2%}" if std is not None else "")


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{v:.6g}" for v in values) + ")"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _code(foreign: object) -> str:
    return "`" + one_line(foreign).replace("`", "'").replace("|", "\\|") + "`"


def _text(foreign: object) -> str:
    """Names from outside, on one line, whose characters are no Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in one_line(foreign))
