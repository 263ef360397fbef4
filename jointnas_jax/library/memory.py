"""The trials of an Optuna study as a history of its sampler."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import numpy as np
from optuna.trial import FrozenTrial, TrialState

from jointnas_jax.library.parameters import Parameters
from jointnas_jax.library.proposal import Seen
from jointnas_jax.library.pruner import reports
from jointnas_jax.predictor.targets import standardised
from jointnas_jax.strategy.front import nondominated
from jointnas_jax.strategy.history import History

# Trials without a score that are believed, at most: the latest ones.
_BELIEFS = 32
# Squares of larger values have no 64 bits.
_LARGEST = 1e150


@flax.struct.dataclass
class Memory(History):
    """Trials of one study, oldest first.

    Attributes:
      excess: `float64[T]`, how far each is outside its constraints, positive where it breaks one;
        nan without a score or constraints.
      costs: `float64[T]`, the known cost of each that has a score; 1 elsewhere, and without one.
    """

    excess: np.ndarray
    costs: np.ndarray

    def asked(self, vectors: np.ndarray) -> "Memory":
        """See `History`."""
        excess = np.append(self.excess, np.full(len(vectors), np.nan))
        costs = np.append(self.costs, np.ones(len(vectors)))
        return dataclasses.replace(super().asked(vectors), excess=excess, costs=costs)

    def arrays(self, most: int) -> Seen:
        """Arrays of fixed sizes, best first.

        Args:
          most: measured trials in them; where there are more, half of them are the best ones, and
            half the latest.
        """
        vectors, scores = self.measured
        excess = self.excess[np.isfinite(self.scores)]
        chosen = _chosen(scores, excess, self.costs[np.isfinite(self.scores)], most)
        excess = excess[chosen]
        costs = self.costs[np.isfinite(self.scores)][chosen]
        z = standardised(scores[chosen])[0]
        believed = np.concatenate([self.failed, self.pending])[-_BELIEFS:]
        failures = max(0, len(believed) - len(self.pending))
        return Seen(
            vectors=_padded(vectors[chosen], most, repeat=True),
            scores=_padded(z, most),
            real=np.int32(len(chosen)),
            # Large numbers drawn together, as a process needs them; 0 stays the limit, and a trial
            # without constraints breaks none.
            excess=_padded(np.nan_to_num(np.arcsinh(excess), nan=0.0), most),
            judged=_padded(np.isfinite(excess), most),
            costs=_padded(np.log(costs), most),
            believed=_padded(believed, _BELIEFS),
            failed=np.arange(_BELIEFS) < failures,
            beliefs=np.int32(len(believed)),
        )


def _chosen(scores: np.ndarray, excess: np.ndarray, costs: np.ndarray, most: int) -> np.ndarray:
    """Positions of the trials to learn from, best first."""
    # What breaks a constraint is behind all that does not; before all the front of a known cost,
    # which is the best trial where there is none.
    sound = np.where(excess > 0, np.nan, scores)
    off = ~np.isin(np.arange(len(scores)), nondominated(costs, sound))
    order = np.lexsort([-scores, off, excess > 0])
    latest = np.arange(len(order))[-(most // 2) :]
    best = order[: most if len(order) <= most else most - len(latest)]
    return order[np.isin(order, np.concatenate([best, latest]))]


def remember(
    trials: Sequence[FrozenTrial],
    proposed: Mapping[int, dict[str, Any]],
    parameters: Parameters,
    sign: float,
    *,
    objective: int = 0,
    cost: int | None = None,
) -> Memory:
    """Reads trials.

    Args:
      trials: trials of the study, oldest first.
      proposed: number of each running trial -> values of its parameters so far.
      parameters: the search space; trials without one of its parameters are left out.
      sign: -1 where the study minimises.
      objective: which of the trials' values is the score.
      cost: which of them is a known cost; a trial with one that is not above 0 failed.
    """
    score_of = functools.partial(_score, sign=sign, objective=objective, cost=cost)
    complete = [score_of(t, median=math.nan) for t in trials if t.state is TrialState.COMPLETE]
    finite = [score for score in complete if math.isfinite(score)]
    # Of halves, as it may be the mean of two that are as large as floats can be.
    median = 2 * float(np.median(np.divide(finite, 2))) if finite else math.nan
    vectors, scores, finished, constraints, costs = [], [], [], [], []
    for trial in trials:
        vector = parameters.vector(proposed.get(trial.number, trial.params))
        if vector is None or trial.state is TrialState.WAITING:
            continue
        running = trial.state is TrialState.RUNNING
        score = math.nan if running else score_of(trial, median=median)
        scored = math.isfinite(score)
        vectors.append(vector)
        scores.append(score if scored else math.nan)
        finished.append(not running)
        constraints.append(_constraints(trial) if scored else {})
        known = scored and cost is not None and trial.values is not None
        costs.append(trial.values[cost] if known else 1.0)
    return Memory(
        vectors=np.array(vectors, np.int32).reshape(len(vectors), len(parameters.space.knobs)),
        scores=np.array(scores, np.float64),
        finished=np.array(finished, bool),
        excess=_excess(constraints),
        costs=np.array(costs, np.float64),
    )


def _score(
    trial: FrozenTrial, *, sign: float, median: float, objective: int, cost: int | None
) -> float:
    """What a finished trial counts, nan or infinite where it failed."""
    if trial.state is TrialState.COMPLETE and trial.values is not None:
        if cost is not None and not 0 < trial.values[cost] < math.inf:
            return math.nan
        return sign * trial.values[objective]
    if trial.state is TrialState.PRUNED and (values := reports(trial)):
        # What it had reached says little beside values at the end, but good it was not.
        return min(sign * values[max(values)], median)
    return math.nan


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    constraints = getattr(trial, "constraints", None)  # Optuna 5
    if constraints is None:
        values = trial.system_attrs.get("constraints") or ()
        constraints = {str(i): value for i, value in enumerate(values)}
    return dict(constraints)


def _excess(constraints: Sequence[Mapping[str, float]]) -> np.ndarray:
    """How far trials are outside, `float64[T]`: by the constraint that is broken most.

    Each is measured in units of its usual size.
    """
    sizes: dict[str, list[float]] = {}
    for one in constraints:
        for name, value in one.items():
            sizes.setdefault(name, []).append(np.clip(value, -_LARGEST, _LARGEST))
    units = {name: np.sqrt(np.mean(np.square(v))) or 1.0 for name, v in sizes.items()}
    worst = lambda one: max(
        (np.clip(v, -_LARGEST, _LARGEST) / units[n] for n, v in one.items()), default=math.nan
    )
    return np.array([worst(one) for one in constraints], np.float64)


def _padded(array: np.ndarray, rows: int, repeat: bool = False) -> np.ndarray:
    """Fills up to `rows`, with zeros or the first row; `float32` of floats."""
    shape = (rows - len(array), *array.shape[1:])
    filling = np.broadcast_to(array[:1] if repeat else 0, shape)
    array = np.concatenate([array, filling.astype(array.dtype)])
    return array.astype(np.float32) if array.dtype == np.float64 else array
