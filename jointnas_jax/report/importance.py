"""Which knobs matter, and which act together, as far as the trials of a study can tell."""

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

from jointnas_jax.report.record import Record
from jointnas_jax.space import Knob

# Trials below which nothing is said, and up to which it is called uncertain.
FEWEST, FEW = 10, 100
# Trials that are looked at, drawn at random where there are more, and resamples of them that the
# spread of an importance is estimated from: Optuna takes a millisecond for each.
_MOST, _RESAMPLES = 400, 6
# "Good" trials: this share of all, but at least so many.
_GOOD_SHARE, _GOOD_TRIALS = 0.1, 5
# Knobs whose pairs are looked at, the most important ones, and pairs that are told.
_PAIRED, _TOLD = 6, 5


@dataclasses.dataclass(frozen=True)
class Importance:
    """What knobs do to the score.

    Attributes:
      trials: that were looked at.
      knobs: most important first.
      shares: `float64[K]`, of the whole effect; they sum to 1.
      spreads: `float64[K]`, their standard deviations over resampled trials.
      recipe: `bool[K]`, which knobs are of the recipe.
      pairs: names of two knobs and Friedman's squared H, strongest first.
    """

    trials: int
    knobs: tuple[str, ...]
    shares: np.ndarray
    spreads: np.ndarray
    recipe: np.ndarray
    pairs: tuple[tuple[str, str, float], ...]

    @property
    def recipe_share(self) -> float:
        """What all knobs of the recipe have of the effect."""
        return float(self.shares[self.recipe].sum())


def importance(record: Record) -> Importance | None:
    """Judges the knobs of a study, from candidates of the coarse stage and of random search.

    Returns:
      None where there are too few trials, or all of them have one score.
    """
    found = record.scored("coarse", "random")
    rng = np.random.default_rng(0)
    if len(found) > _MOST:
        found = [found[i] for i in sorted(rng.choice(len(found), _MOST, replace=False))]
    scores = np.array([score for _, score in found])
    if len(found) < FEWEST or not record.knobs or np.ptp(scores) == 0:
        return None
    vectors = record.vectors([trial for trial, _ in found])
    shares = _shares(record.knobs, vectors, scores)
    again = [rng.integers(0, len(scores), len(scores)) for _ in range(_RESAMPLES)]
    spreads = np.std([_shares(record.knobs, vectors[i], scores[i]) for i in again], axis=0)
    order = np.argsort(-shares, kind="stable")
    names = [knob.name for knob in record.knobs]
    return Importance(
        trials=len(found),
        knobs=tuple(names[j] for j in order),
        shares=shares[order],
        spreads=spreads[order],
        recipe=np.array([record.of_recipe(names[j]) for j in order]),
        pairs=_pairs(names, order[:_PAIRED], vectors, scores),
    )


def _shares(knobs: Sequence[Knob], vectors: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Importances by PED-ANOVA: `float64[K]`, summing to 1; all equal where nothing is told."""
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
        found = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=good)
        )
    shares = np.array([found[knob.name] for knob in knobs])
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
    return tuple(sorted(strengths, key=lambda pair: -pair[2])[:_TOLD])


def _dependence(
    forest: RandomForestRegressor, inputs: np.ndarray, knobs: tuple[int, ...]
) -> np.ndarray:
    """Centred partial dependence on knobs at each trial: `float64[N]`."""
    found = partial_dependence(
        forest, inputs, knobs, method="recursion", percentiles=(0, 1), grid_resolution=10_000
    )
    places = [
        np.searchsorted(grid, inputs[:, j])
        for grid, j in zip(found["grid_values"], knobs, strict=True)
    ]
    values = found["average"][0][tuple(places)]
    return values - values.mean()
