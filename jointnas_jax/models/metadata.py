"""What is known of how a trained network came to be, for its model card and for whoever loads it.

Plain data, ready for JSON; what is not known is left out, or null:

- `study`, `mode`, `study_seed`: of the search, or the name of the training alone
- `dataset` (`name`, `image_shape`) and `data` (splits, validation, augmentation)
- `recipe` as searched, `epochs` (`search`, `final`) and `train` (`batch_size`, `teacher`)
- `winner`, `seed` and `accuracy`: which of the study's trainings this is, its test accuracy
- `validation`, `test`: of all seeds, as in `result.json`
- `references`: of each its `source`, `test` and `costs`, and the `verdict` of the comparison
- `budget`, `within_budget`, `trials`, `seconds`: of the search
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jointnas_jax.files import read_json
from jointnas_jax.storage.workdir import CONFIG, SCHEMA, TRAINING

_DATA = (
    *("train_split", "test_split", "val_fraction", "val_images", "classes", "image_size"),
    *("crop_padding", "flip", "min_area", "transforms", "strength"),
)


def of_winner(workdir: Path, result: Mapping[str, Any], winner: int, seed: int) -> dict[str, Any]:
    """Facts of one training of a winner.

    Args:
      workdir: of the study.
      result: content of its `result.json`.
      winner: its rank, from 0.
      seed: of the training.
    """
    config = read_json(workdir / CONFIG, SCHEMA) if (workdir / CONFIG).is_file() else {}
    entry = result["winners"][winner]
    test = entry.get("test", {"seeds": []})
    comparison = result.get("comparison", {})
    return {
        **_run(result, config),
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


def of_training(workdir: Path, result: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of the training of one candidate, given its workdir and its `result.json`."""
    config = (
        read_json(workdir / TRAINING, SCHEMA)["config"] if (workdir / TRAINING).is_file() else {}
    )
    return {
        **_run(result, config),
        "recipe": result["candidate"]["recipe"],
        "epochs": {"search": config.get("train", {}).get("epochs"), "final": result["epochs"]},
        "accuracy": result["accuracy"],
        "seconds": result["seconds"],
    }


def _run(result: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What studies and trainings have in common."""
    data, train = config.get("data", {}), config.get("train", {})
    dataset = result["dataset"]
    # Its name alone: where it lies is nobody else's business.
    teacher = Path(train.get("teacher", "")).name
    return {
        "study": result.get("name"),
        "dataset": {key: dataset.get(key) for key in ("name", "image_shape")},
        "data": {key: data[key] for key in _DATA if key in data},
        "train": {"batch_size": train.get("batch_size"), "teacher": teacher},
    }
