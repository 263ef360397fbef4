"""Learning curves of random candidates, to choose scores and rules of the search by.

python -m benchmarks.curves record --config=configs/digits.py --candidates=1000
python -m benchmarks.curves score
python -m benchmarks.curves early
python -m benchmarks.curves race --searches=20

`record` trains random candidates within the budget for as many epochs as winners. The first
`--again` of them train three times (other initial weights, batches, augmentation), and on
`--folds` divisions of the training split into training and validation images. The same training of
all candidates has the same draws, as in a study. After every epoch it measures the raw weights and
the averaged ones, and both on the test split at the end. The table `curves_NAME.json.gz` in
`--tables` is written while it runs, and the same command goes on from there.

`score` tells of each table and score of the validation images how well one training of a candidate
foretells the test accuracy of its other trainings, and its own score in them (Spearman, with the
standard deviation over resampled candidates). The ceiling is the accuracy on all test images. Where
candidates trained on several divisions, the mean of their scores is judged, too.

`early` tells how well the score after a part of a training foretells that on the test images at its
end (Spearman, calibrated Brier score), by the weights that are judged.

`race` compares searches on the tables by the epochs that they take, see `race.py`.
"""

import contextlib
import dataclasses
import gzip
import json
import sys
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks.predictors import who_can
from jointnas_jax.command_line import define_path, parse_config, run_measurement, text_table
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError, InputError
from jointnas_jax.files import UNREADABLE, write_whole

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"
TABLES = Path(__file__).parent / "data"
# What is kept of each weights after each epoch, in this order.
COLUMNS = (
    "accuracy",
    "balanced_accuracy",
    "log_loss",
    "brier",
    "balanced_log_loss",
    "balanced_brier",
    "calibrated_log_loss",
    "calibrated_brier",
)
_DIGITS = 5
# Of the candidates that train again.
_TRAININGS = 3
# Between two writes of a table.
_SECONDS = 30.0
# What judges a training: a column, the sign with which more is better, of which images it is, and
# of which weights; "" is those that count for the recipe.
_JUDGES = {
    "accuracy": ("accuracy", 1, "", ""),
    "balanced accuracy": ("balanced_accuracy", 1, "", ""),
    "log loss": ("log_loss", -1, "", ""),
    "log loss, balanced": ("balanced_log_loss", -1, "", ""),
    "log loss, calibrated": ("calibrated_log_loss", -1, "", ""),
    "log loss, averaged weights": ("log_loss", -1, "", "averaged"),
    "Brier score": ("brier", -1, "", ""),
    "Brier score, balanced": ("balanced_brier", -1, "", ""),
    "Brier score, calibrated": ("calibrated_brier", -1, "", ""),
    "Brier score, averaged weights": ("brier", -1, "", "averaged"),
    "ceiling": ("accuracy", 1, "test_", ""),
}
# What studies are compared by.
_CHOSEN = "Brier score, calibrated"
_RESAMPLES = 200
# Parts of a training.
_PARTS = (0.2, 1 / 3, 0.4, 0.5, 0.6, 0.75, 1.0)


def record(
    config: Config, *, candidates: int, again: int, folds: int, tables: Path = TABLES
) -> dict[str, Any]:
    """Trains what the table lacks; returns what it holds.

    Args:
      config: a study.
      candidates, again, folds: see the flags.
      tables: folder of the tables.

    Raises:
      InputError: bad config or data, or a table of something else; before anything trains.
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
    file = tables / f"curves_{config.name}.json.gz"
    settings = _settings(config, problem.dataset.name)
    rows = _stored(file, settings)
    root = jax.random.key(config.seed)
    with _writing(file, settings, rows) as written:
        for fold in range(folds):
            again = min(again, len(vectors))
            # By candidate and training; those that train again come first.
            wanted = [(i, t) for t in range(0 if fold else _TRAININGS) for i in range(again)]
            wanted += [(i, 0) for i in range(again if fold else len(vectors))]
            wanted = list(dict.fromkeys(wanted))
            done = [p for p, (i, t) in enumerate(wanted) if (i, t, fold) in rows]
            print(f"fold {fold}: {len(done)} of {len(wanted)} trainings are done", flush=True)
            if len(done) == len(wanted):
                continue
            divided = dataclasses.replace(problem, config=dataclasses.replace(config, seed=fold))
            sample = [candidate.arch for candidate in drawn]
            executor = LocalExecutor(config, problem.space, divided.divided_images(), sample=sample)
            keys = [jax.random.fold_in(root, training) for training in range(_TRAININGS)]
            jobs = [Job(drawn[i], keys[t], epochs, recorded=True) for i, t in wanted]
            with contextlib.closing(executor.train(jobs, stored=done)) as completed:
                for position, result in completed:
                    i, training = wanted[position]
                    rows[i, training, fold] = {
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
                    written()
    return {"file": file.name, "trainings": len(rows), "epochs": epochs}


def score(tables: Sequence[Path], metric: str = "accuracy") -> dict[str, Any]:
    """Compares the scores on tables; returns a row for each table and score.

    Args:
      tables: files.
      metric: column of the test split that is foretold.
    """
    rows = []
    for file in tables:
        trainings: dict[int, list[Any]] = {}
        divisions: dict[int, list[Any]] = {}
        for row in read_table(file)["trainings"]:
            if row["reason"] is None and row["fold"] == 0:
                trainings.setdefault(row["candidate"], []).append(row)
            if row["reason"] is None and row["training"] == 0:
                divisions.setdefault(row["candidate"], []).append(row)
        complete = [i for i, rows in trainings.items() if len(rows) == _TRAININGS]
        if len(complete) < 3:
            continue
        repeats = [trainings[i] for i in complete]
        truth = _values(repeats, (metric, 1, "test_", ""))
        judged = {name: _values(repeats, judge) for name, judge in _JUDGES.items()}
        least = min(len(divisions[i]) for i in complete)
        if least > 1:
            # Mean of the first training on all divisions; its others, on the first one, are judged.
            several = [divisions[i][:least] for i in complete]
            means = _values(several, _JUDGES[_CHOSEN]).mean(1, keepdims=True)
            judged[f"{_CHOSEN}, {least} divisions"] = means
        draws = np.random.default_rng(0).integers(0, len(complete), (_RESAMPLES, len(complete)))
        for name, values in judged.items():
            resampled = [_foretells(values[d], truth[d]) for d in draws]
            rows.append(
                {
                    "table": _name(file),
                    "score": name,
                    "candidates": len(complete),
                    "foretells": _foretells(values, truth),
                    "deviation": float(np.std(resampled)),
                    "agrees": _agrees(values) if values.shape[1] > 1 else None,
                }
            )
    layout = {
        "score": "{table} {score}",
        "candidates": "{candidates}",
        "foretells": "{foretells:.2f} ± {deviation:.2f}",
        "agrees": "{agrees:.2f}",
    }
    print(text_table(rows, layout))
    return {"rows": rows}


def early(tables: Sequence[Path]) -> dict[str, Any]:
    """Compares the weights that are judged early; returns a row for each table and weights."""
    from jointnas_jax.strategy.early_stop import spearman

    rows = []
    for file in tables:
        table = read_table(file)
        sound = [
            row
            for row in table["trainings"]
            if (row["training"], row["fold"], row["reason"]) == (0, 0, None)
        ]
        if not sound:
            continue
        epochs = table["train"]["winner_epochs"] or table["train"]["epochs"]
        column = COLUMNS.index("calibrated_brier")
        truth = np.array([-last(row, "test_")[column] for row in sound])
        for name, weights in (("trained", ""), ("raw", "raw"), ("averaged", "averaged")):
            curves = np.array([_curve(row, "", weights) for row in sound])[..., column]
            foretells = [spearman(-curves[:, max(1, round(p * epochs)) - 1], truth) for p in _PARTS]
            rows.append(
                {
                    "table": _name(file),
                    "weights": name,
                    "candidates": len(sound),
                    "foretells": foretells,
                }
            )
    layout = {"weights": "{table} {weights}", "candidates": "{candidates}"}
    parts = {f"{p:.0%}": f"{{foretells[{i}]:.2f}}" for i, p in enumerate(_PARTS)}
    print(text_table(rows, layout | parts))
    return {"rows": rows, "parts": _PARTS}


def compete(
    tables: Sequence[Path], *, searches: int, contestants: Sequence[str] = ()
) -> dict[str, Any]:
    """Races searches on tables; returns a row for each table, search and budget."""
    from benchmarks.race import CONTESTANTS, NEEDS, race

    names = who_can(contestants, CONTESTANTS, NEEDS)
    named = {_name(file): read_table(file) for file in tables}
    column = COLUMNS.index("calibrated_brier")
    rows = []
    for name in names:
        for row in race(named, column, searches=searches, names=[name]):
            rows.append(row)
            print(json.dumps(row), flush=True)
    layout = {
        "search": "{table} {search}",
        "trainings": "{trainings}",
        "area": "{area:.3f} ± {area_error:.3f}",
        "regret": "{regret:.4f} ± {regret_error:.4f}",
        "candidates": "{candidates:.0f}",
    }
    print(text_table(rows, layout))
    return {"rows": rows}


def _values(complete: Sequence[Any], judge: tuple[str, int, str, str]) -> np.ndarray:
    """What a judge says after the last epoch, `float64[candidates, trainings]`."""
    column, sign, images, weights = judge
    return np.array(
        [
            [sign * last(row, images, weights)[COLUMNS.index(column)] for row in rows]
            for rows in complete
        ]
    )


def _foretells(judged: np.ndarray, truth: np.ndarray) -> float:
    """Spearman of one training's `float64[C, T]` with the truth of the others, mean over T."""
    from jointnas_jax.strategy.early_stop import spearman

    others = lambda t: np.delete(truth, t, axis=1).mean(1)
    return float(np.mean([spearman(judged[:, t], others(t)) for t in range(judged.shape[1])]))


def _agrees(judged: np.ndarray) -> float:
    """Spearman of two trainings, mean over pairs."""
    from jointnas_jax.strategy.early_stop import spearman

    pairs = zip(*np.triu_indices(judged.shape[1], 1), strict=True)
    return float(np.mean([spearman(judged[:, a], judged[:, b]) for a, b in pairs]))


def last(row: Mapping[str, Any], images: str = "", weights: str = "") -> list[float]:
    """The columns of a training after the last epoch; arguments as in a judge."""
    return _curve(row, images, weights)[-1]


def _curve(row: Mapping[str, Any], images: str, weights: str) -> list[list[float]]:
    """The columns after each epoch."""
    return row["curves"][images + (weights or ("averaged" if row["ema"] else "raw"))]


def _name(file: Path) -> str:
    """The name of a table's config."""
    return file.name.removeprefix("curves_").removesuffix(".json.gz")


def read_table(file: Path) -> dict[str, Any]:
    """The content of a table."""
    return json.loads(gzip.decompress(file.read_bytes()))


def _settings(config: Config, dataset: str) -> dict[str, Any]:
    """What the trainings depend on; where the dataset lies is not of it."""
    from jointnas_jax.storage.workdir import jsonable

    plain = config.to_dict()
    settings = {name: plain[name] for name in ("name", "seed", "budget", "data", "space", "train")}
    settings["data"] = {k: v for k, v in settings["data"].items() if k != "dir"}
    settings |= {"dataset": dataset, "columns": COLUMNS}
    return json.loads(json.dumps(jsonable(settings)))


def _stored(file: Path, settings: Mapping[str, Any]) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The trainings of a table by candidate, training and fold; raises `InputError`."""
    if not file.exists():
        return {}
    try:
        table = read_table(file)
        rows = {(r["candidate"], r["training"], r["fold"]): r for r in table.pop("trainings")}
    except (*UNREADABLE, OSError, EOFError, zlib.error) as error:
        raise InputError(f"`{file}` must be a table of this benchmark: {error}") from None
    if table != settings:
        raise InputError(f"`{file}` is of another config; name that one, or remove the file")
    return rows


@contextlib.contextmanager
def _writing(
    file: Path, settings: Mapping[str, Any], rows: Mapping[tuple[int, int, int], dict[str, Any]]
) -> Iterator[Any]:
    """Writes a table at the end, whatever ends it, and meanwhile when what it yields is called."""
    written = time.monotonic()

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        table = {**settings, "trainings": [rows[key] for key in sorted(rows)]}
        write_whole(file, gzip.compress(json.dumps(table, allow_nan=False).encode(), mtime=0))

    def now_and_then() -> None:
        nonlocal written
        if time.monotonic() - written > _SECONDS:
            write()
            written = time.monotonic()

    try:
        yield now_and_then
    finally:
        write()


def main(argv: list[str]) -> dict[str, Any]:
    """Runs one of the commands; returns the report."""
    names = ("record", "score", "early", "race")
    commands = [argument for argument in argv[1:] if argument in names]
    if len(commands) != 1:
        raise ConfigError(f"name one command of {', '.join(names)}")
    rest = [argument for argument in argv if argument != commands[0]]
    config = parse_config(rest, str(DEFAULT_CONFIG), flags.FLAGS)
    values = flags.FLAGS
    tables = Path(values.tables or TABLES)
    if commands[0] != "record":
        files = sorted(tables.glob("curves_*.json.gz"))
        if commands[0] == "race":
            return compete(files, searches=values.searches, contestants=values.contestants)
        return early(files) if commands[0] == "early" else score(files, values.metric)
    return record(
        config,
        candidates=values.candidates,
        again=values.again,
        folds=values.folds,
        tables=tables,
    )


if __name__ == "__main__":
    define_path("tables", "", "Folder of the tables; '': benchmarks/data.")
    flags.DEFINE_integer("candidates", 300, "Random candidates.", 3)
    flags.DEFINE_integer("again", 60, "How many of them train three times, and on all folds.", 0)
    flags.DEFINE_integer("folds", 1, "Divisions of the training split.", 1)
    flags.DEFINE_integer("searches", 20, "Searches of a race, each with other draws.", 1)
    flags.DEFINE_list("contestants", [], "Who takes part in a race; none: all installed.")
    flags.DEFINE_enum(
        "metric", "accuracy", ["accuracy", "balanced_accuracy"], "What is to be foretold."
    )
    sys.exit(run_measurement(__doc__, main))
