"""Whole studies where trainings cost nothing: of a surrogate of recorded learning curves.

python -m benchmarks.surrogates --searches=24
python -m benchmarks.surrogates --config=configs/fashion_mnist.py --table=fashion_small

A table of `benchmarks.curves` has some hundred candidates of a space. The surrogate says of any
other one what it would score: the mean of a forest and a Gaussian process, fitted to logarithms of
the errors; besides, a draw of its own for each candidate, as large as what the two do not explain,
and one for each training, as large as the differences of repeated trainings. The stages of a study
run on it with their own code, from the pool to the winners, and what they found is judged by its
mean over many trainings. So settings of the search are compared on dozens of studies in minutes;
whether the surrogate is like the real thing, only real studies say.

A search is compared with random search and with the scaled default candidate by the areas under
their fronts, as shares of the rectangle from the worst to the best of all, and by the accuracies of
those that are best by validation.
"""

import dataclasses
import hashlib
import json
import math
import sys
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from absl import flags

from benchmarks.curves import COLUMNS, DEFAULT_CONFIG, TABLES, last, read_table
from benchmarks.effects import ABOVE
from jointnas_jax.command_line import define_path, parse_config, run_measurement, text_table
from jointnas_jax.config import Config
from jointnas_jax.errors import InputError

_SCORE, _ACCURACY = COLUMNS.index("calibrated_brier"), COLUMNS.index("accuracy")
_FOREST = dict(n_estimators=300, min_samples_leaf=2, max_features=0.5, random_state=0)
# Candidates that the length scales are fitted to; it takes time with the cube of their number.
_FITTED = 400
# Trainings whose mean is what a candidate is worth.
_TRAININGS = 30


class Outcome(NamedTuple):
    """What a training shows: scores at the end, at the rung and on test images, and accuracies."""

    score: float
    early: float
    accuracy: float
    test_score: float
    test_accuracy: float


class Surrogate:
    """Says how a candidate would train; see the module."""

    def __init__(self, table: dict[str, Any], problem: Any, rung: int):
        """Fits a table.

        Args:
          table: of `benchmarks.curves`, of the problem's space.
          problem: the `Problem` of the studies.
          rung: epochs after which trainings of a study pause.
        """
        from jointnas_jax.space.features import FeatureTable

        self._problem, self._table = problem, FeatureTable.of(problem.space)
        rows = [r for r in table["trainings"] if r["reason"] is None and r["fold"] == 0]
        first = np.array([r["training"] == 0 for r in rows])
        inputs = self._inputs(np.array([r["vector"] for r in rows], np.int32))
        shown = -np.log(ABOVE - np.array([_outcome(row, rung) for row in rows]))
        self._centre, self._unit = shown[first].mean(0), shown[first].std(0)
        self._mean, self._deviation = inputs[first].mean(0), inputs[first].std(0) + 1e-9
        x, z = self._standardised(inputs), (shown - self._centre) / self._unit
        self._kernel = _length_scales(x[first], z[first].mean(1))
        self._fitted = self._fit(x[first], z[first])
        rest = z[first] - self._cross_validated(x[first], z[first])
        within = _noise([r["candidate"] for r in rows], z)
        self.explained = 1 - np.square(rest).mean(0)
        self._noise = _root(within)
        self._own = _root(np.cov(rest.T) - within)
        self._known: dict[bytes, np.ndarray] = {}

    def train(self, vector: np.ndarray, key: Sequence[int]) -> Outcome:
        """One training of `int32[K]` with a key."""
        name = vector.astype(np.int32).tobytes()
        if name not in self._known:
            x = self._standardised(self._inputs(vector[None]))
            mean = np.mean([model.predict(x)[0] for model in self._fitted], 0)
            self._known[name] = mean + self._own @ _normal(name, b"own", len(mean))
        noise = self._noise @ _normal(name, repr(list(key)).encode(), len(self._noise))
        z = self._known[name] + noise
        return Outcome(*(ABOVE - np.exp(-(z * self._unit + self._centre))))

    def worth(self, vector: np.ndarray) -> float:
        """The test accuracy of `int32[K]`, mean of many trainings."""
        return float(
            np.mean([self.train(vector, [-1, i]).test_accuracy for i in range(_TRAININGS)])
        )

    def _inputs(self, vectors: np.ndarray) -> np.ndarray:
        features = np.concatenate(self._table(vectors), -1)
        return np.concatenate([features, np.log(self._problem.costs(vectors)[:, :2])], 1)

    def _standardised(self, inputs: np.ndarray) -> np.ndarray:
        return (inputs - self._mean) / self._deviation

    def _fit(self, x: np.ndarray, z: np.ndarray) -> list[Any]:
        from sklearn.ensemble import ExtraTreesRegressor
        from sklearn.gaussian_process import GaussianProcessRegressor

        process = GaussianProcessRegressor(self._kernel, optimizer=None, alpha=1e-6)
        return [ExtraTreesRegressor(**_FOREST).fit(x, z), process.fit(x, z)]

    def _cross_validated(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        from sklearn.model_selection import KFold

        found = np.zeros_like(z)
        for rest, part in KFold(5, shuffle=True, random_state=0).split(x):
            found[part] = np.mean([m.predict(x[part]) for m in self._fit(x[rest], z[rest])], 0)
        return found


def _outcome(row: dict[str, Any], rung: int) -> Outcome:
    """What a recorded training showed; of errors, less is better in the table."""
    end, test = last(row), last(row, "test_")
    early = row["curves"]["averaged"][rung - 1][_SCORE]
    scores = 1 - end[_SCORE], 1 - early, end[_ACCURACY], 1 - test[_SCORE], test[_ACCURACY]
    return Outcome(*scores)


def _length_scales(x: np.ndarray, z: np.ndarray) -> Any:
    """The kernel of a process, fitted to some candidates."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

    some = np.random.default_rng(0).permutation(len(x))[:_FITTED]
    curved = ConstantKernel(1.0) * Matern(np.full(x.shape[1], 5.0), (0.5, 100), nu=2.5)
    kernel = curved + ConstantKernel(0.3) * DotProduct(1.0) + WhiteKernel(0.3)
    process = GaussianProcessRegressor(kernel, random_state=0)
    with warnings.catch_warnings():
        # What does not matter has the longest scale there is.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(x[some], (z - z.mean())[some] / z.std()).kernel_


def _noise(candidates: Sequence[int], z: np.ndarray) -> np.ndarray:
    """The covariance of repeated trainings of the same candidate."""
    of = np.array(candidates)
    groups = [z[of == i] for i in dict.fromkeys(candidates)]
    apart = [group - group.mean(0) for group in groups if len(group) > 1]
    return sum(a.T @ a for a in apart) / sum(len(a) - 1 for a in apart)


def _root(covariance: np.ndarray) -> np.ndarray:
    """A root of a covariance; what is negative of it counts as nothing."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors * np.sqrt(np.maximum(values, 0))


def _normal(name: bytes, which: bytes, count: int) -> np.ndarray:
    """Normal numbers that depend on names alone."""
    digest = hashlib.sha256(name + which).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32)).standard_normal(count)


@dataclasses.dataclass(frozen=True)
class _Trial:
    """What stages read of a stored trial."""

    stage: str
    score: float
    accuracies: tuple[float, ...]


class SurrogateRunner:
    """Trains nothing; stands where stages have a `TrialRunner`."""

    def __init__(self, surrogate: Surrogate):
        self._surrogate = surrogate
        self._ended: dict[tuple[bytes, bytes], Any] = {}
        self.stored: dict[int, _Trial] = {}

    @property
    def count(self) -> int:
        """Trials so far."""
        return len(self.stored)

    def reasons(self) -> list[str]:
        """Nothing fails."""
        return []

    def searched(self, job: Any) -> Any:
        """What a training of the search showed that was as long; None: there was none."""
        return self._ended.get(_name(job))

    def run(self, specs: Sequence[Any]) -> list[Any]:
        """The results of trials."""
        return [self._trial(spec) for spec in specs]

    def _trial(self, spec: Any) -> Any:
        from jointnas_jax.execution.job import TrainResult
        from jointnas_jax.train.paused import Paused

        job = spec.job
        shown = self._surrogate.train(job.candidate.vector, _key(job))
        pauses = job.epochs < (job.full_epochs or job.epochs)
        score, accuracy = (shown.early if pauses else shown.score), shown.accuracy
        if job.on_full_split:
            score, accuracy = shown.test_score, shown.test_accuracy
        # Nobody reads what is between the ends.
        shown_epochs = 1 if job.on_full_split else job.epochs - job.first_epoch
        result = TrainResult(
            (float(accuracy),) * shown_epochs,
            None,
            None,
            scores=(float(score),) * shown_epochs,
            paused=Paused(job.epochs) if job.pauses else None,
        )
        if not pauses and not job.on_full_split:
            self._ended[_name(job)] = result
        accuracies = (float(accuracy),) * job.epochs
        self.stored[self.count] = _Trial(spec.stage, float(score), accuracies)
        return result


def _key(job: Any) -> list[int]:
    import jax

    return np.asarray(jax.random.key_data(job.key)).tolist()


def _name(job: Any) -> tuple[bytes, bytes]:
    return job.candidate.vector.tobytes(), repr(_key(job)).encode()


def search(config: Config, surrogate: Surrogate, searcher: Any) -> dict[str, Any]:
    """One study; what its winners, the scaled default and random search's front are worth."""
    from rich.console import Console

    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.study.front import FrontRule
    from jointnas_jax.study.stages import Stages
    from jointnas_jax.study.study_files import StudyFiles
    from jointnas_jax.study.trial_runner import TrialRunner
    from jointnas_jax.telemetry.progress import Progress

    problem = build_problem(config)
    pool = problem.pool()
    nothing = lambda *_: None
    files = types.SimpleNamespace(predictor=nothing, winner=nothing, weights=nothing)
    study = Stages(
        problem,
        cast(TrialRunner, SurrogateRunner(surrogate)),
        cast(StudyFiles, files),
        progress=Progress(Console(quiet=True)),
        searcher=searcher,
        rule=FrontRule.of(problem, pool),
    )
    searched = study.coarse(pool, study.pretrain())
    finalists = study.finalists(searched, study.evolve(searched))
    new = sum(finalist.source == "fine stage" for finalist in finalists)
    references = study.references(searched.trainings + new, searched)
    study.validate([*finalists, references.default, *references.random])
    winners = study.winners(sorted(finalists, key=lambda f: -f.mean_score))
    references = study.final_references(references, winners, searched)
    groups = {
        "search": winners,
        "scaled_default": [references.default, *references.scaled],
        "random": references.random,
    }
    return _judged(problem, surrogate, groups) | {
        "seed": config.seed,
        "trainings": searched.trainings + new,
        "candidates": len(searched.state.vectors),
    }


def _judged(problem: Any, surrogate: Surrogate, groups: dict[str, list[Any]]) -> dict[str, Any]:
    """The areas of the groups, the accuracy of the best of two, and the fewer times of the cost."""
    from jointnas_jax.strategy.front import Reference, hypervolume

    vectors = {name: np.array([c.candidate.vector for c in g]) for name, g in groups.items()}
    logs = {name: np.log(problem.front_costs(v)) for name, v in vectors.items()}
    worth = {name: np.array([surrogate.worth(x) for x in v]) for name, v in vectors.items()}
    every, best = np.concatenate([*logs.values()]), np.concatenate([*worth.values()])
    corner = Reference.beyond(every, best)
    whole = (corner.cost - every.min()) * (best.max() - corner.score)
    area = {name: hypervolume(logs[name], worth[name], corner) / whole for name in groups}
    # Winners and random search's front are best first, by validation.
    first = {name: float(worth[name][0]) for name in ("search", "random")}
    reached = logs["search"][worth["search"] >= worth["scaled_default"][0]]
    fewer = math.exp(logs["scaled_default"][0] - reached.min()) if len(reached) else 0.0
    return {"area": area, "accuracy": first, "times_fewer": fewer}


def studies(config: Config, table: Path, searches: int) -> dict[str, Any]:
    """Runs studies of a surrogate; returns what they found, and how often they are ahead."""
    from jointnas_jax.problem.problem import build_problem
    from jointnas_jax.runtime.jax_setup import prepare_jax

    prepare_jax(1)
    if not table.exists():
        raise InputError(f"`{table}` must be a table of benchmarks.curves; record it first")
    problem = build_problem(config)
    rung = config.rung_epochs[0]
    surrogate = Surrogate(read_table(table), problem, rung)
    searcher, rows = problem.searcher(), []
    for seed in range(config.seed, config.seed + searches):
        rows.append(search(dataclasses.replace(config, seed=seed), surrogate, searcher))
        print(json.dumps(rows[-1]), flush=True)
    lead = lambda what, of: [row[what]["search"] - row[what][of] for row in rows]
    leads = {
        "area, random search": lead("area", "random"),
        "area, scaled default": lead("area", "scaled_default"),
        "accuracy, random search": lead("accuracy", "random"),
    }
    told = [
        {
            "ahead of": name,
            "by": float(np.mean(by)),
            "error": float(np.std(by) / math.sqrt(len(by))),
            "share": float(np.mean(np.array(by) > 0)),
        }
        for name, by in leads.items()
    ]
    layout = {"ahead of": "{ahead of}", "by": "{by:+.4f} ± {error:.4f}", "studies": "{share:.0%}"}
    print(text_table(told, layout))
    return {
        "explained": dict(zip(Outcome._fields, surrogate.explained.tolist(), strict=True)),
        "ahead": told,
        "times_fewer": float(np.median([r["times_fewer"] for r in rows])),
        "studies": rows,
    }


def main(argv: list[str]) -> dict[str, Any]:
    """Returns the report."""
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    name = flags.FLAGS.table or config.name
    folder = Path(flags.FLAGS.tables or TABLES)
    return studies(config, folder / f"curves_{name}.json.gz", flags.FLAGS.searches)


if __name__ == "__main__":
    define_path("tables", "", "Folder of the tables; '': benchmarks/data.")
    flags.DEFINE_string("table", "", "Name of the table; '': that of the config.")
    flags.DEFINE_integer("searches", 24, "Studies, each with another seed.", 1)
    sys.exit(run_measurement(__doc__, main))
