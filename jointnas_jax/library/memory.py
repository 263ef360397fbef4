"""What the trials of an Optuna study tell its sampler."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from jointnas_jax.library.parameters import Parameters
from jointnas_jax.library.proposal import Seen
from jointnas_jax.predictor.targets import standardised

# Trials without a score that are believed, at most: the latest ones.
_BELIEFS = 32
# Squares of larger values have no 64 bits.
_LARGEST = 1e150


class Memory(NamedTuple):
    """Trials of one study, oldest first.

    Attributes:
      vectors: `int32[T, K]`, that have a score.
      scores: `float64[T]`, finite, higher is better.
      excess: `float64[T]`, how far each is outside its constraints, positive where it breaks one;
        nan without constraints.
      pending: `int32[R, K]`, that still run.
      failed: `int32[D, K]`, that have no score.
    """

    vectors: np.ndarray
    scores: np.ndarray
    excess: np.ndarray
    pending: np.ndarray
    failed: np.ndarray

    @property
    def known(self) -> set[bytes]:
        """All candidates, for `first_new`."""
        every = np.concatenate([self.vectors, self.pending, self.failed])
        return {vector.tobytes() for vector in every}

    def arrays(self, most: int) -> Seen:
        """Arrays of fixed sizes, best first.

        Args:
          most: measured trials in them; where there are more, half of them are the best ones, and
            half the latest.
        """
        chosen = self._chosen(most)
        z = standardised(np.clip(self.scores[chosen], -_LARGEST, _LARGEST))[0]
        excess = self.excess[chosen]
        believed = np.concatenate([self.failed, self.pending])[-_BELIEFS:]
        failures = max(0, len(believed) - len(self.pending))
        return Seen(
            _padded(self.vectors[chosen], most, repeat=True),
            _padded(z, most),
            np.int32(len(chosen)),
            # Large numbers drawn together, as a process needs them; 0 stays the limit, and where no
            # constraint is known none is broken.
            _padded(np.nan_to_num(np.arcsinh(excess), nan=0.0), most),
            _padded(np.isfinite(excess), most),
            _padded(believed, _BELIEFS),
            np.arange(_BELIEFS) < failures,
            np.int32(len(believed)),
        )

    def _chosen(self, most: int) -> np.ndarray:
        """Positions of the trials to learn from, best first."""
        # What breaks a constraint is behind all that does not.
        order = np.lexsort([-self.scores, self.excess > 0])
        latest = np.arange(len(order))[-(most // 2) :]
        best = order[: most if len(order) <= most else most - len(latest)]
        rest = [i for i in latest if i not in set(best.tolist())]
        return order[np.isin(order, [*best, *rest])]


def remember(
    trials: Sequence[FrozenTrial],
    proposed: Mapping[int, dict[str, Any]],
    parameters: Parameters,
    sign: float,
) -> Memory:
    """Reads trials.

    Args:
      trials: of the study, oldest first.
      proposed: number of each running trial -> values of its parameters, as far as they are known.
      parameters: that are searched; trials without one of them tell nothing.
      sign: -1 where the study minimises.
    """
    complete = [sign * t.value for t in trials if _complete(t)]
    median = float(np.median(complete)) if complete else math.nan
    measured, pending, failed = [], [], []
    for trial in trials:
        vector = parameters.vector(proposed.get(trial.number, trial.params))
        if vector is None or trial.state is TrialState.WAITING:
            continue
        if trial.state is TrialState.RUNNING:
            pending.append(vector)
        elif math.isfinite(score := _score(trial, sign, median)):
            measured.append((vector, score, _constraints(trial)))
        else:
            failed.append(vector)
    stack = lambda rows: np.array(rows, np.int32).reshape(len(rows), len(parameters.space.knobs))
    return Memory(
        stack([vector for vector, _, _ in measured]),
        np.array([score for _, score, _ in measured], np.float64),
        _excess([constraints for _, _, constraints in measured]),
        stack(pending),
        stack(failed),
    )


def _complete(trial: FrozenTrial) -> bool:
    return trial.state is TrialState.COMPLETE and math.isfinite(trial.value)


def _score(trial: FrozenTrial, sign: float, median: float) -> float:
    """What a finished trial counts, nan or infinite where it failed."""
    if trial.state is TrialState.COMPLETE:
        return sign * trial.value if math.isfinite(trial.value) else math.nan
    if trial.state is TrialState.PRUNED and trial.intermediate_values:
        # What it had reached says little beside values at the end, but good it was not.
        return min(sign * trial.intermediate_values[max(trial.intermediate_values)], median)
    return math.nan


def _constraints(trial: FrozenTrial) -> dict[str, float]:
    found = getattr(trial, "constraints", None)  # Optuna 5
    if found is None:
        values = trial.system_attrs.get("constraints") or ()
        found = {str(i): value for i, value in enumerate(values)}
    return dict(found)


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
