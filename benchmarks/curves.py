"""Learning curves of random candidates, to choose scores and rules of the search by.

python -m benchmarks.curves record --config=configs/digits.py --candidates=1000
python -m benchmarks.curves score

`record` trains random candidates within the budget for as many epochs as winners. The first
`--again` of them train three times (other initial weights, batches, augmentation), and on
`--folds` divisions of the training split into training and validation images. After every epoch it
measures the raw weights and the averaged ones, and both on the test split at the end. A file of
JSON lines in `--trials` has what is done; the same command goes on. The table is written to
`benchmarks/data/curves_NAME.json.gz`.

`score` tells of each table and score of the validation images how well one training of a candidate
foretells the test accuracy of its other trainings, and its own score in them (Spearman). The
ceiling is the accuracy on all test images.
"""

import contextlib
import dataclasses
import gzip
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from jointnas_jax.command_line import define_path, parse_config, run_measurement, text_table
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, WorkdirError

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"
TABLES = Path(__file__).parent / "data"
# What is kept of each weights after each epoch, in this order.
COLUMNS = ("accuracy", "balanced_accuracy", "log_loss", "brier")
_DIGITS = 5
# Of the candidates that train again.
_TRAININGS = 3
# What judges a training: a column, the sign with which more is better, and of which images it is.
_JUDGES = {
    "accuracy": ("accuracy", 1, ""),
    "balanced accuracy": ("balanced_accuracy", 1, ""),
    "log loss": ("log_loss", -1, ""),
    "Brier score": ("brier", -1, ""),
    "ceiling": ("accuracy", 1, "test_"),
}


def record(
    config: Config, path: Path, *, candidates: int, again: int, folds: int, tables: Path = TABLES
) -> dict[str, Any]:
    """Trains what the file of trials lacks, and writes the table; returns what it holds.

    Args:
      config: a study.
      path: the file of trials.
      candidates, again, folds: see the flags.
      tables: folder of the tables.

    Raises:
      InputError: bad config or data, or a file that holds something else; before anything trains.
    """
    # Only now: these imports take seconds, and an error in a flag should not.
    import jax

    from jointnas_jax.execution.job import Job
    from jointnas_jax.execution.local import LocalExecutor
    from jointnas_jax.nets.cost import count
    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.train.program import TRAINED

    prepare_jax(config.study.devices)
    problem, epochs = build_problem(config), config.train.epochs_of_winners
    vectors = problem.random_candidates(candidates)
    drawn = [problem.space.decode(vector) for vector in vectors]
    settings = _settings(config, problem.dataset.name)
    rows = _read(path, settings)
    root = jax.random.key(config.seed)
    for fold in range(folds):
        again = min(again, len(vectors))
        # By candidate and training.
        wanted = [(i, 0) for i in range(again if fold else len(vectors))]
        wanted += [(i, t) for t in range(1, _TRAININGS) for i in range(0 if fold else again)]
        done = [p for p, (i, t) in enumerate(wanted) if (i, t, fold) in rows]
        print(f"fold {fold}: {len(done)} of {len(wanted)} trainings are done", flush=True)
        if len(done) == len(wanted):
            continue
        divided = dataclasses.replace(problem, config=dataclasses.replace(config, seed=fold))
        sample = [candidate.arch for candidate in drawn]
        executor = LocalExecutor(config, problem.space, divided.divided_images(), sample=sample)
        key = lambda i, t: jax.random.fold_in(jax.random.fold_in(root, t), i)
        jobs = [Job(drawn[i], key(i, t), epochs, recorded=True) for i, t in wanted]
        with contextlib.closing(executor.train(jobs, stored=done)) as completed:
            for position, result in completed:
                i, training = wanted[position]
                row = {
                    "candidate": i,
                    "training": training,
                    "fold": fold,
                    "vector": vectors[i].tolist(),
                    "costs": dataclasses.asdict(count(drawn[i].arch)),
                    "ema": drawn[i].recipe.ema,
                    "reason": result.reason,
                    "curves": {
                        name: [[round(getattr(m, c), _DIGITS) for c in COLUMNS] for m in curve]
                        for name, curve in result.curves.items()
                        if TRAINED not in name  # which are one of the others
                    },
                }
                rows[i, training, fold] = row
                _append(path, row, settings)
    table = {**settings, "columns": COLUMNS, "trainings": [rows[key] for key in sorted(rows)]}
    file = tables / f"curves_{config.name}.json.gz"
    tables.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(json.dumps(table).encode(), mtime=0))
    return {"file": file.name, "trainings": len(rows), "epochs": epochs}


def score(tables: Sequence[Path]) -> dict[str, Any]:
    """Compares the scores on tables; returns a row for each table and score."""
    from jointnas_jax.strategy.early_stop import spearman

    rows = []
    for file in tables:
        table = read_table(file)
        trainings: dict[int, list[Any]] = {}
        for row in table["trainings"]:
            if row["fold"] == 0 and row["reason"] is None:
                trainings.setdefault(row["candidate"], []).append(row)
        complete = [rows for rows in trainings.values() if len(rows) == _TRAININGS]
        if len(complete) < 3:
            continue
        for name, (column, sign, test) in _JUDGES.items():
            value = lambda row: sign * _last(row, test)[COLUMNS.index(column)]  # noqa: B023
            foretells, agrees = [], []
            for one, *others in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
                judged = np.array([value(t[one]) for t in complete])
                other = [np.mean([_last(t[o], "test_")[0] for o in others]) for t in complete]
                foretells.append(spearman(judged, np.array(other)))
                agrees.append(spearman(judged, np.array([value(t[others[0]]) for t in complete])))
            rows.append(
                {
                    "table": file.name.removeprefix("curves_").removesuffix(".json.gz"),
                    "score": name,
                    "candidates": len(complete),
                    "foretells": float(np.mean(foretells)),
                    "agrees": float(np.mean(agrees)),
                }
            )
    layout = {
        "score": "{table} {score}",
        "candidates": "{candidates}",
        "foretells": "{foretells:.2f}",
        "agrees": "{agrees:.2f}",
    }
    print(text_table(rows, layout))
    return {"rows": rows}


def _last(row: Mapping[str, Any], prefix: str) -> list[float]:
    """The columns of the weights that count, after the last epoch."""
    return row["curves"][prefix + ("averaged" if row["ema"] else "raw")][-1]


def read_table(file: Path) -> dict[str, Any]:
    """The content of a table."""
    return json.loads(gzip.decompress(file.read_bytes()))


def _settings(config: Config, dataset: str) -> dict[str, Any]:
    """What the trainings depend on; where the dataset lies is not of it."""
    from jointnas_jax.storage.workdir import jsonable

    plain = config.to_dict()
    settings = {name: plain[name] for name in ("name", "seed", "budget", "data", "space", "train")}
    settings["data"] = {k: v for k, v in settings["data"].items() if k != "dir"}
    return json.loads(json.dumps(jsonable(settings | {"dataset": dataset})))


def _read(path: Path, settings: Mapping[str, Any]) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The stored trainings by candidate, training and fold; raises `WorkdirError`."""
    if not path.exists():
        return {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = list(itertools.takewhile(lambda line: line.endswith("\n"), lines))  # a kill tears one
    try:
        head, *rows = map(json.loads, whole)
        stored = {(row["candidate"], row["training"], row["fold"]): row for row in rows}
    except (ValueError, TypeError, LookupError) as error:
        raise WorkdirError(f"`--trials={path}` must be a file of this benchmark: {error}") from None
    if head != settings:
        raise WorkdirError(f"`--trials={path}` is of another config; give another file")
    path.write_text("".join(whole), encoding="utf-8")
    return stored


def _append(path: Path, row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", encoding="utf-8") as file:
        for line in (settings, row) if new else (row,):
            file.write(json.dumps(line, allow_nan=False) + "\n")


def main(argv: list[str]) -> dict[str, Any]:
    """Runs one of the two commands; returns the report."""
    commands = [argument for argument in argv[1:] if argument in ("record", "score")]
    if len(commands) != 1:
        raise ConfigError("name one command: record or score")
    rest = [argument for argument in argv if argument != commands[0]]
    config = parse_config(rest, str(DEFAULT_CONFIG), flags.FLAGS)
    if commands[0] == "score":
        return score(sorted(TABLES.glob("curves_*.json.gz")))
    values = flags.FLAGS
    path = Path(values.trials or f"runs/curves_{config.name}.jsonl")
    return record(
        config, path, candidates=values.candidates, again=values.again, folds=values.folds
    )


if __name__ == "__main__":
    define_path("trials", "", "File of trainings; '': runs/curves_NAME.jsonl.")
    flags.DEFINE_integer("candidates", 300, "Random candidates.", 3)
    flags.DEFINE_integer("again", 60, "How many of them train three times, and on all folds.", 0)
    flags.DEFINE_integer("folds", 3, "Divisions of the training split.", 1)
    sys.exit(run_measurement(__doc__, main))
