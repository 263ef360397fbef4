"""Importance of knobs and interaction of pairs, estimated from the trials of a study."""

import dataclasses
import itertools
import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from sklearn.ensemble import RandomForestRegressor
from sklearn.inspection import partial_dependence

from jointnas_jax.report.record import StudyRecord
from jointnas_jax.space import Knob

# Fewest trials with a verdict, and number of trials up to which it is uncertain.
FEWEST, FEW = 10, 100
# Most trials in use, drawn at random where there are more, and resamples for the spread of an
# importance: Optuna takes a millisecond for each.
_MOST, _RESAMPLES = 400, 6
# "Good" trials: this share of all, but at least so many.
_GOOD_SHARE, _GOOD_TRIALS = 0.1, 5
# Number of the most important knobs whose pairs are tried, and of pairs in the result.
_PAIRED, _PAIRS = 6, 5


@dataclasses.dataclass(frozen=True)
class Importance:
    """Effect of knobs on the score.

    Attributes:
      trials: Number of trials in use.
      knobs: Names, most important first.
      shares: `float64[K]`, shares of the whole effect, with sum 1.
      spreads: `float64[K]`, standard deviations of the shares over resampled trials.
      recipe: `bool[K]`, True for knobs of the recipe.
      pairs: Names of two knobs and Friedman's squared H, strongest first.
    """

    trials: int
    knobs: tuple[str, ...]
    shares: np.ndarray
    spreads: np.ndarray
    recipe: np.ndarray
    pairs: tuple[tuple[str, str, float], ...]

    @property
    def recipe_share(self) -> float:
        """Share of all knobs of the recipe."""
        return float(self.shares[self.recipe].sum())


def importance(record: StudyRecord) -> Importance | None:
    """Judges the knobs of a study, from candidates of the coarse stage and of random search.

    Returns:
      None where there are too few trials, or all of them have one score.
    """
    rows = record.scored("coarse", "random")
    rng = np.random.default_rng(0)
    if len(rows) > _MOST:
        rows = [rows[i] for i in sorted(rng.choice(len(rows), _MOST, replace=False))]
    scores = np.array([score for _, score in rows])
    if len(rows) < FEWEST or not record.knobs or np.ptp(scores) == 0:
        return None
    vectors = record.vectors([trial for trial, _ in rows])
    shares = _shares(record.knobs, vectors, scores)
    again = [rng.integers(0, len(scores), len(scores)) for _ in range(_RESAMPLES)]
    spreads = np.std([_shares(record.knobs, vectors[i], scores[i]) for i in again], axis=0)
    order = np.argsort(-shares, kind="stable")
    names = [knob.name for knob in record.knobs]
    return Importance(
        trials=len(rows),
        knobs=tuple(names[j] for j in order),
        shares=shares[order],
        spreads=spreads[order],
        recipe=np.array([record.of_recipe(names[j]) for j in order]),
        pairs=_pairs(names, order[:_PAIRED], vectors, scores),
    )


def _shares(knobs: Sequence[Knob], vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Importances by PED-ANOVA: `float64[K]`, with sum 1; all equal where it finds no effect."""
    domains = {knob.name: _domain(knob) for knob in knobs}
    good = max(_GOOD_SHARE, min(0.5, _GOOD_TRIALS / len(scores)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():  # it is marked experimental
        warnings.simplefilter("ignore")
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=dict(zip(domains, map(int, vector), strict=True)),
                    distributions=domains,
                    value=float(score),
                )
                for vector, score in zip(vectors, scores, strict=True)
            ]
        )
        effects = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=good)
        )
    shares = np.array([effects[knob.name] for knob in knobs])
    return shares / shares.sum() if shares.sum() > 0 else np.full(len(knobs), 1 / len(knobs))


def _domain(knob: Knob) -> BaseDistribution:
    """The indices of a knob's values."""
    size = len(knob.values)
    return IntDistribution(0, size - 1) if knob.ordinal else CategoricalDistribution(range(size))


def _pairs(
    names: Sequence[str], chosen: np.ndarray, vectors: np.ndarray, scores: np.ndarray
) -> tuple[tuple[str, str, float], ...]:
    """Friedman's squared H of pairs of knobs, by the partial dependence of a random forest."""
    used = [int(j) for j in chosen if np.ptp(vectors[:, j]) > 0]
    inputs = vectors.astype(float)
    # Leaves of three and more: single trials are noise.
    forest = RandomForestRegressor(100, min_samples_leaf=3, random_state=0).fit(inputs, scores)
    alone = {j: _dependence(forest, inputs, (j,)) for j in used}
    strengths = []
    for j, k in itertools.combinations(used, 2):
        both = _dependence(forest, inputs, (j, k))
        whole = float((both**2).sum())
        rest = float(((both - alone[j] - alone[k]) ** 2).sum())
        strengths.append((names[j], names[k], min(1.0, rest / whole) if whole else 0.0))
    return tuple(sorted(strengths, key=lambda pair: -pair[2])[:_PAIRS])


def _dependence(
    forest: RandomForestRegressor, inputs: np.ndarray, knobs: tuple[int, ...]
) -> np.ndarray:
    """Centred partial dependence on knobs at each trial: `float64[N]`."""
    result = partial_dependence(
        forest, inputs, knobs, method="recursion", percentiles=(0, 1), grid_resolution=10_000
    )
    indices = [
        np.searchsorted(grid, inputs[:, j])
        for grid, j in zip(result["grid_values"], knobs, strict=True)
    ]
    values = result["average"][0][tuple(indices)]
    return values - values.mean()
