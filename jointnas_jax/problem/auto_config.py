"""A config that fits a dataset: space, default candidate, recipe ranges, epochs and budget.

It follows the configs of this repository, which were written by hand for images of 8 to 224 pixels,
and is written as one of them, to be read and edited.
"""

import dataclasses
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from jointnas_jax.command_line import flag_texts, joined, parse_config
from jointnas_jax.config import DataConfig
from jointnas_jax.data.source import ImageDataset, open_dataset
from jointnas_jax.errors import ConfigError, DataError
from jointnas_jax.files import write_whole, writing
from jointnas_jax.nets.cost import count
from jointnas_jax.rules import is_url, local_path, parse_limit
from jointnas_jax.runtime.output import tell
from jointnas_jax.runtime.processes import in_a_process
from jointnas_jax.space import JointSpace
from jointnas_jax.storage.workdir import CONFIG

_FILE = "config.py"

# FLOPs for each pixel: what a CPU trains in minutes, and what a phone runs (FBNetV3: 300M at 224).
_PER_PIXEL = {"cpu": 1_200, "accelerator": 6_000}
_LARGEST = {"cpu": 32, "accelerator": 224}
# Useful FLOPs of a study that takes about half an hour on two cores.
_CPU_FLOPS = 1.5e13
# Trainings of a study, and FLOPs of a step beside those of the network.
_TRAININGS, _STEP = 90, 3
# Updates of a training: configs of this repository have 540 to 900.
_UPDATES = 800
_EPOCHS = (10, 60)
# With fewer images in a step BN has too little to go by.
_LEAST_BATCH = 8
# Pixels of a side.
_SMALLEST = 4
# Share of the budget that the default candidate costs.
_DEFAULT_SHARE = 0.8
# From these proportions on, the middle of an image is too little of it.
_WIDE = 1.5
# Images of a split whose sizes are looked at.
_LOOKED_AT = 200
# Characters of a line of a config.
_LINE = 100


class _Stage(NamedTuple):
    width: float  # of the channels, as a multiple of the first stage's
    stride: int
    depth: int  # of the default candidate
    expand: int
    se: bool


_SMALL = (_Stage(1, 1, 1, 3, False), _Stage(1.5, 2, 2, 4, True))
_MEDIUM = (
    _Stage(1, 2, 1, 1, False),
    _Stage(2, 2, 2, 4, True),
    _Stage(4, 2, 1, 4, True),
)
_LARGE = (
    _Stage(1, 1, 1, 1, False),
    _Stage(1.5, 2, 2, 4, False),
    _Stage(2.5, 2, 3, 4, True),
    _Stage(4.5, 2, 3, 4, True),
    _Stage(7, 1, 3, 4, True),
    _Stage(11, 2, 3, 5, True),
)
# The largest resolution is below the first number: stride of the stem, then the stages.
_PLANS = ((16, 1, _SMALL), (41, 1, _MEDIUM), (97, 2, _MEDIUM), (math.inf, 2, _LARGE))


def with_auto_config(argv: Sequence[str], default_file: str) -> list[str]:
    """Gives the command line of a study a config file that fits its data, see `wants_auto_config`.

    The file is `config.py` in the workdir; that of a
    study that is there already stays. A dry run prints it instead, and leaves a temporary file.

    Args:
      argv: arguments as in `sys.argv`.
      default_file: config that stands in for what is not of the data.

    Raises:
      InputError: as `fitted_config`, and for a wrong flag of the data or the budget.
    """
    argv, values = joined(argv), flag_texts(argv)
    overrides = [a for a in argv[1:] if re.match(r"--?(no)?config\.", a)]
    of_data = [a for a in overrides if re.match(r"--?(no)?config\.(data|budget)\.", a)]
    config = parse_config([argv[0], *of_data], default_file, flags.FlagValues())
    flops = values.get("config.budget.flops", "")
    device = in_a_process("jointnas_jax.runtime.jax_setup:platform")
    name, text = fitted_config(config.data, flops, accelerator=device != "cpu")
    with tempfile.TemporaryDirectory() as folder:
        checked = Path(folder) / _FILE
        checked.write_text(text)
        # A mistake in the others leaves no trace.
        parse_config([argv[0], f"--config={checked}", *overrides], "", flags.FlagValues())
    if is_url(values.get("workdir", "")):  # the same data gives the same text anywhere
        file = Path(tempfile.mkdtemp()) / _FILE
        file.write_text(text)
        tell(f"  wrote `{file}`, a config that fits; edit it, and give it as --config")
    elif any(a.lstrip("-") in ("dry_run", "dry_run=true") for a in argv):
        print(text)
        file = Path(tempfile.mkdtemp()) / _FILE
        file.write_text(text)
    else:
        workdir = Path(local_path(values.get("workdir") or f"runs/{name}", "--workdir"))
        file = workdir / _FILE
        if not ((workdir / CONFIG).exists() and file.exists()) or "--overwrite" in argv:
            with writing(workdir):
                workdir.mkdir(parents=True, exist_ok=True)
            write_whole(file, text.encode())
            tell(f"  wrote `{file}`, a config that fits; edit it, and give it as --config")
    return [argv[0], f"--config={file}", *(a for a in argv[1:] if not re.match("--?config=", a))]


def fitted_config(data: DataConfig, flops: str, *, accelerator: bool) -> tuple[str, str]:
    """Writes a config for a dataset.

    Args:
      data: the dataset; splits and sizes that are not given are chosen.
      flops: limit such as "10M"; "": what the device trains in half an hour, or a phone runs.
      accelerator: whether candidates train on one.

    Returns:
      Name of the config, and its text, a Python file.

    Raises:
      DataError: the dataset cannot be used.
      ConfigError: no network of the limit fits its images.
    """
    dataset, size = _opened(data)
    splits = _splits(data, dataset.split_names)
    height, width, channels = dataset.image_shape
    wide = max(height, width) > _WIDE * min(height, width)
    # All of a wide image counts, so its pixels do, not its shorter side.
    side = size or (math.isqrt(height * width) if wide else min(height, width))
    if side < _SMALLEST:
        raise DataError(
            f"images of `{dataset.name}` must have {_SMALLEST} pixels a side, have "
            f"{height}x{width}; give `--config.data.image_size=` to enlarge them"
        )
    largest = _largest_resolution(side, flops, accelerator)
    budget = parse_limit("flops", flops) if flops else _usual_budget(largest, accelerator)
    if side > largest and not (size == 0 and wide):
        size = largest  # read once at the size that is used
    available = dataset.count(splits["train_split"])
    batch, epochs, images = _training(available, budget, accelerator)
    if images < available and "val_split" not in splits:
        splits["train_split"] = f"{splits['train_split']}[:{images}]"
    space, default = _space_within(budget, largest, side, (channels, dataset.num_classes))
    share = 0.3 if images < 4_000 else 0.2 if images < 50_000 else 0.1
    name = dataset.name.split("/")[0]
    options: dict[str, Any] = {
        "name": name,
        "budget.flops": _in_words(budget),
        **{f"data.{key}": value for key, value in _given(data).items()},
        **{f"data.{key}": value for key, value in splits.items()},
        "data.image_size": size,
        "data.val_fraction": share,
        "data.crop_padding": max(1, (size or min(height, width)) // 10),
        "data.flip": channels == 3,
        "space": space,
        "default": default,
        "train.epochs": epochs,
        "train.batch_size": batch,
        "train.fast_compile": not accelerator,
        "search.pool_size": 4096,
        "search.rounds": 4,
        "search.per_round": 5,
        "search.front": "flops",
        "search.stopping": "curve",
        "search.finalists": 4,
        "search.winners": 3,
    }
    used = "" if images == available else f", of which {images:,} are used"
    text = _TEXT.format(
        about=f"{dataset}: {available:,} training images{used}",
        lines="\n".join(f"    config.{key} = {_code(value)}" for key, value in options.items()),
    )
    return name, text


_TEXT = '''"""{about}.

Made to fit it by --config=auto; edit what you know better. Mirrored images (`flip`) are for photos,
not for characters; `crop_padding` moves images by a tenth.
"""

from jointnas_jax.config import default_config


def get_config():
    config = default_config()
{lines}
    return config
'''


def _opened(data: DataConfig) -> tuple[ImageDataset, int]:
    """The dataset, and the size to load its images at; 0: they have one."""
    settings = dataclasses.asdict(data)
    try:
        return open_dataset(settings), data.image_size
    except DataError:
        if data.image_size:
            raise
    # Images of different sizes, or nothing that helps.
    dataset = open_dataset(settings | {"image_size": 8})
    split = data.train_split if data.train_split in dataset.split_names else dataset.split_names[0]
    sides = [min(shape) for shape in dataset.stored_sizes(split, _LOOKED_AT)]
    size = min(int(np.median(sides)), _LARGEST["accelerator"])
    return open_dataset(settings | {"image_size": size}), size


def _splits(data: DataConfig, names: Sequence[str]) -> dict[str, str]:
    """Split expressions: what is given, else by the names that datasets use."""
    splits = {"train_split": data.train_split, "test_split": data.test_split}
    if data.test_split not in names and data.test_split == "test" and "validation" in names:
        splits["test_split"] = "validation"
    given = next((n for n in ("val", "validation") if n in names), "")
    if data.val_split:
        splits["val_split"] = data.val_split
    elif given and given not in splits.values() and data.train_split == "train":
        splits |= {"train_split": f"train+{given}", "val_split": given}
    return splits


def _given(data: DataConfig) -> dict[str, Any]:
    """Where the data is, and which classes of it."""
    chosen = {name: getattr(data, name) for name in ("name", "dir", "classes", "class_seed")}
    if chosen["dir"] and not is_url(chosen["dir"]):
        chosen["dir"] = os.path.abspath(chosen["dir"])
    usual = dataclasses.asdict(DataConfig())
    return {name: value for name, value in chosen.items() if value != usual[name]}


def _largest_resolution(side: int, flops: str, accelerator: bool) -> int:
    """The largest resolution that is searched, for images of a side."""
    device = "accelerator" if accelerator else "cpu"
    if side < _PLANS[0][0]:  # tiny images train better enlarged
        return -(-3 * side // 8) * 4
    most = _LARGEST[device]
    if flops:
        most = min(
            _LARGEST["accelerator"], math.isqrt(parse_limit("flops", flops) // _PER_PIXEL["cpu"])
        )
    step = 4 if most <= 40 else 8
    return max(min(side, most) // step * step, _PLANS[0][0])


def _usual_budget(resolution: int, accelerator: bool) -> int:
    """FLOPs of networks for a resolution, to two digits."""
    flops = _PER_PIXEL["accelerator" if accelerator else "cpu"] * resolution**2
    flops *= 2 if resolution < _PLANS[1][0] // 2 else 1  # maps are not halved as often
    unit = 10 ** (len(str(flops)) - 2)
    return flops // unit * unit


def _training(available: int, budget: int, accelerator: bool) -> tuple[int, int, int]:
    """Batch size, epochs, and how many of the images are used."""
    batch = 32 if available < 4_000 else 64 if available < 20_000 else 128
    while batch > _LEAST_BATCH and batch > available // 8:
        batch //= 2
    batch = min(batch, max(2, available // 3))  # a third of them may be to validate on
    images = available
    if not accelerator:
        # Fewer images, not smaller networks: what a candidate costs is what the search is about.
        updates = _CPU_FLOPS / (_TRAININGS * _STEP * budget * batch)
        thousands = max(1, round(updates / _EPOCHS[0] * batch / 1000))
        images = min(available, 1000 * thousands)
        batch = min(batch, 64) if images < 20_000 else batch
    low, high = _EPOCHS
    return batch, min(max(-(-_UPDATES * batch // images), low), high), images


def _space_within(
    budget: int, largest: int, side: int, problem: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The widest space whose default candidate leaves room in the budget, and that candidate."""
    channels, classes = problem
    fits = None
    for width in range(4, 97, 2):
        space, default = _space(width, largest, side)
        joint = JointSpace.from_config(space, image_channels=channels, num_classes=classes)
        arch = joint.decode(joint.vector_from_values(default)).arch
        if fits and count(arch).flops > _DEFAULT_SHARE * budget:
            break
        fits = space, default, count(arch).flops
    assert fits is not None
    space, default, flops = fits
    if flops > budget:
        raise ConfigError(
            f"`config.budget.flops` must be at least {flops:,} for networks of {largest} pixels, "
            f"got {budget:,}"
        )
    return space, default


def _space(width: int, largest: int, side: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A space around a width of the first stage, and its default candidate."""
    stem_stride, plan = next((stride, plan) for below, stride, plan in _PLANS if largest < below)
    step = 4 if largest <= 40 else 8
    resolutions = {largest, *(round(part * largest / step) * step for part in (0.5, 0.75))}
    if side < _PLANS[0][0]:
        resolutions = {side, largest}
    stem = max(8, width // 8 * 8)
    default: dict[str, Any] = {
        "resolution": min(largest, side),
        "stem_channels": stem,
    }
    stages = []
    for i, stage in enumerate(plan, start=1):
        channels, around = _around(width * stage.width)
        options: dict[str, Any] = {
            "kernel": [3, 5],
            "expand": 1,
            "channels": around,
            "depth": (max(1, stage.depth - 1), stage.depth + 1),
            "stride": stage.stride,
        }
        default |= {
            f"stage{i}_kernel": 3,
            f"stage{i}_channels": channels,
            f"stage{i}_depth": stage.depth,
        }
        if stage.expand > 1 and stage.depth > 1:
            first, rest = (stage.expand - 1, stage.expand + 2), (2, 4)
            options["expand"] = dict(first=first, rest=rest)
            default |= {f"stage{i}_expand_first": stage.expand, f"stage{i}_expand_rest": 3}
        elif stage.expand > 1:
            options["expand"] = (stage.expand - 2, stage.expand + 1)
            default |= {f"stage{i}_expand": stage.expand}
        if stage.se:
            options["se"] = [False, True]
            default |= {f"stage{i}_se": True}
        stages.append(options)
    space = dict(
        resolution=sorted(resolutions),
        stem=dict(channels=(stem, 2 * stem, stem // 2), stride=stem_stride),
        stages=tuple(stages),
        head=dict(expand=3, channels=max(64, 10 * width // 8 * 8)),
        recipe=_RECIPE,
    )
    return space, default | _DEFAULT_RECIPE


# Ranges that hold their optimum inside: on a set that nobody had tuned for, searches ended at a
# learning rate of 0.02 and at no regularisation.
_RECIPE = dict(
    lr=(0.002, 0.03, 0.002),
    optimizer=["sgd", "rmsprop"],
    sgd_lr_scale=20.0,
    ema=[False, True],
    dropout=(0.0, 0.3, 0.05),
    stochastic_depth=(0.0, 0.2, 0.05),
    mixup=(0.0, 0.4, 0.05),
    weight_decay=[1e-5, 1e-4, 1e-3],
    lr_end=0.06,
    warmup=0.07,
    ema_decay=0.98,
)
_DEFAULT_RECIPE = dict(
    lr=0.01,
    optimizer="sgd",
    ema=True,
    dropout=0.1,
    stochastic_depth=0.1,
    mixup=0.1,
    weight_decay=1e-4,
)


def _around(channels: float) -> tuple[int, tuple[int, int, int]]:
    """Channels as a multiple of 4 or 8, and a range around them."""
    step = 4 if channels <= 16 else 8
    middle = max(2, round(channels / step))
    low, high = max(1, round(0.65 * middle)), round(1.5 * middle)
    return middle * step, (low * step, high * step, step)


def _in_words(flops: int) -> str:
    """A limit as people write it, not above it."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "K")):
        if flops >= unit and flops % (unit // 1000) == 0:
            return f"{flops / unit:g}{letter}"
    return str(flops)


def _code(value: Any, indent: int = 4) -> str:
    """A value as Python, of our configs' form; its lines are indented by so much."""
    if not isinstance(value, Mapping | tuple) or not any(isinstance(v, Mapping) for v in value):
        flat = _flat(value)
        if len(flat) + indent < _LINE:
            return flat
    inner, end = " " * (indent + 4), " " * indent
    if isinstance(value, Mapping):
        lines = [f"{inner}{key}={_code(item, indent + 4)}," for key, item in value.items()]
        return "dict(\n" + "\n".join(lines) + f"\n{end})"
    lines = [f"{inner}{_code(item, indent + 4)}," for item in value]
    return "(\n" + "\n".join(lines) + f"\n{end})"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "dict(" + ", ".join(f"{k}={_flat(v)}" for k, v in value.items()) + ")"
    return repr(value) if not isinstance(value, str) else json.dumps(value, ensure_ascii=False)
