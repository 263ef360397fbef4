"""Metadata of a trained network: its study, data, recipe and accuracy.

JSON, the key `facts` of `model.json`; unknown values are absent or null:

- `study`, `mode`, `study_seed`: the search, or the name of the training alone
- `dataset` (`name`, `image_shape`) and `data` (splits, validation, augmentation)
- `recipe` as searched, `epochs` (`search`, `final`) and `train` (`batch_size`, `teacher`)
- `winner`, `seed` and `accuracy`: the training among those of the study, its test accuracy
- `validation`, `test`: statistics over all seeds, as in `result.json`
- `references`: `source`, `test`, `costs` and `verdict` of each
- `budget`, `within_budget`, `trials`, `seconds`: the search
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnas_jax.files import read_json
from jointnas_jax.storage.workdir import CONFIG, SCHEMA, TRAINING

# Options of `config.data`: splits, then augmentation.
_DATA: tuple[str, ...] = (
    "train_split",
    "val_split",
    "test_split",
    "val_fraction",
    "val_images",
    "classes",
    "image_size",
)
_DATA += ("crop_padding", "flip", "min_area", "transforms", "strength")


def winner_metadata(
    workdir: Path, result: Mapping[str, Any], winner: int, seed: int
) -> dict[str, Any]:
    """Metadata of one training of a winner, given the study's workdir and its `result.json`."""
    config = read_json(workdir / CONFIG, SCHEMA) if (workdir / CONFIG).is_file() else {}
    entry = result["winners"][winner]
    test = entry.get("test", {"seeds": []})
    # Of a front it would compare networks of different cost.
    comparison = {} if result.get("front") else result.get("comparison", {})
    return {
        **_common(result, config),
        "mode": result.get("mode"),
        "study_seed": result.get("seed"),
        "recipe": entry["candidate"]["recipe"],
        "epochs": result.get("epochs", {}),
        "winner": winner,
        "seed": seed,
        "accuracy": test["seeds"][seed] if seed < len(test["seeds"]) else None,
        "validation": entry.get("validation"),
        "test": entry.get("test"),
        "references": {
            name: {
                **{key: reference.get(key) for key in ("source", "test", "costs")},
                "verdict": comparison.get(name, {}).get("verdict"),
            }
            for name, reference in result.get("references", {}).items()
        },
        "budget": result.get("budget", {}),
        "within_budget": entry.get("within_budget"),
        "trials": result.get("trials"),
        "seconds": sum(result.get("seconds", {}).values()),
    }


def training_metadata(workdir: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of the training of one candidate, given its workdir and its `result.json`."""
    file = workdir / TRAINING
    config = read_json(file, SCHEMA)["config"] if file.is_file() else {}
    return {
        **_common(result, config),
        "recipe": result["candidate"]["recipe"],
        "epochs": {"search": config.get("train", {}).get("epochs"), "final": result["epochs"]},
        "accuracy": result["accuracy"],
        "seconds": result["seconds"],
    }


def _common(result: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of studies and of trainings of one candidate."""
    data, train = config.get("data", {}), config.get("train", {})
    dataset = result["dataset"]
    # Its name alone: its folder is private.
    teacher = Path(train.get("teacher", "")).name
    return {
        "study": result.get("name"),
        "metric": config.get("search", {}).get("metric", "accuracy"),
        "dataset": {key: dataset.get(key) for key in ("name", "image_shape")},
        "data": {key: data[key] for key in _DATA if key in data},
        "train": {"batch_size": train.get("batch_size"), "teacher": teacher},
    }
