"""`jn.JointNASPruner`: stops trials of an Optuna study, also of one that searches a front."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from jointnas_jax.arguments import check_function, check_integer, check_real
from jointnas_jax.errors import InputError, shown
from jointnas_jax.library.space import as_array
from jointnas_jax.strategy.rungs import at_the_end

# User attributes with the values that `report` was given, by step.
_STEP = "jointnas_jax:step "
# Deviation to divide by.
_LEAST = 1e-12


class JointNASPruner(BasePruner):
    """Stops a trial that is far less likely than a new one to end better than what is as cheap.

    What values at a step say of those at the end is learnt from the complete trials that had both
    (`strategy/rungs.py`): a step that says nothing yet stops nobody. Like any other of Optuna's::

        study = optuna.create_study(sampler=jn.JointNASSampler(), pruner=jn.JointNASPruner())

    Optuna refuses `trial.report` and `trial.should_prune` where a study has two objectives. Where
    one of them is a known cost, as `JointNASSampler` searches it, the pruner has both itself::

        pruner = jn.JointNASPruner(cost=lambda p: p["layers"] * p["width"])

        def objective(trial):
            ...
            pruner.report(trial, accuracy, epoch)
            if pruner.should_prune(trial):
                raise optuna.TrialPruned()

    A trial is compared with the best of those that cost as much or less then.
    """

    def __init__(
        self,
        *,
        chance: float = 0.2,
        n_startup_trials: int = 8,
        n_warmup_steps: int = 0,
        interval_steps: int = 1,
        cost: Callable[[dict[str, Any]], Any] | None = None,
        cost_objective: int = 1,
    ):
        """Makes a pruner.

        Args:
          chance: of ending better, as a share of that of a new trial, below which a trial is
            stopped; in [0, 1].
          n_startup_trials: complete trials with a value at the step, before any is stopped there.
          n_warmup_steps: steps before any trial is stopped.
          interval_steps: steps between two at which trials may be stopped.
          cost: the known cost of two objectives, the same function that the sampler has.
          cost_objective: which objective it is, 0 or 1.

        Raises:
          InputError: an argument is out of range.
        """
        self._chance = check_real("chance", chance, 0.0, 1.0)
        self._startup = check_integer("n_startup_trials", n_startup_trials, 2, 1_000_000)
        self._warmup = check_integer("n_warmup_steps", n_warmup_steps, 0, 10**9)
        self._interval = check_integer("interval_steps", interval_steps, 1, 10**9)
        self._cost = check_function("cost", cost, optional=True)
        self._cost_objective = check_integer("cost_objective", cost_objective, 0, 1)

    def report(self, trial: Trial, value: float, step: int) -> None:
        """Notes the value of a trial at a step; of two objectives of the one that is not the cost.

        Raises:
          InputError: the value is no number, or the step not at least 0.
        """
        step = check_integer("step", step, 0, 10**9)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InputError(f"`value` must be a number, got {shown(value)}") from None
        trial.set_user_attr(f"{_STEP}{step}", number)

    def should_prune(self, trial: Trial) -> bool:
        """Whether to stop a trial, after its latest report."""
        storage, number = trial.study._storage, trial._trial_id
        return self.prune(trial.study, storage.get_trial(number))

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """See Optuna's `BasePruner`."""
        values = reports(trial)
        if not values:
            return False
        step = max(values)
        if step < self._warmup or (step - self._warmup) % self._interval:
            return False
        if not math.isfinite(values[step]):
            return True
        objective, sign = self._objective(study)
        complete = [
            t
            for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if math.isfinite(reports(t).get(step, math.nan)) and math.isfinite(t.values[objective])
        ]
        if len(complete) < self._startup:
            return False
        ends = sign * np.array([t.values[objective] for t in complete])
        here = sign * np.array([reports(t)[step] for t in complete] + [values[step]])
        scores, variances = at_the_end(np.stack([here, np.append(ends, np.nan)], 1))
        rivals = ends[self._as_cheap(trial, complete)]
        if not len(rivals):
            return False
        known = scipy.stats.norm.sf(rivals.max(), scores[-1], max(math.sqrt(variances[-1]), _LEAST))
        new = scipy.stats.norm.sf(rivals.max(), ends.mean(), max(ends.std(), _LEAST))
        return bool(known < self._chance * new)

    def _objective(self, study: Study) -> tuple[int, float]:
        """Which objective is reported, and the sign with which more is better."""
        count = len(study.directions)
        if count != (1 if self._cost is None else 2):
            raise InputError(
                "JointNASPruner stops trials of one objective, or of two where one is a known "
                f"`cost`; this study has {count}, and the pruner "
                f"{'no `cost`' if self._cost is None else 'a `cost`'}"
            )
        objective = 0 if self._cost is None else 1 - self._cost_objective
        minimised = study.directions[objective] is StudyDirection.MINIMIZE
        return objective, -1.0 if minimised else 1.0

    def _as_cheap(self, trial: FrozenTrial, others: list[FrozenTrial]) -> np.ndarray:
        """Which of the others cost as much as a trial or less, `bool[N]`."""
        if self._cost is None:
            return np.ones(len(others), bool)
        arrays = {name: as_array([value]) for name, value in trial.params.items()}
        limit = float(np.asarray(self._cost(arrays)).reshape(-1)[0])
        costs = np.array([t.values[self._cost_objective] for t in others])
        return costs <= limit * (1 + 1e-9)


def reports(trial: FrozenTrial) -> dict[int, float]:
    """The values that a trial reported, to Optuna or to the pruner, by step."""
    noted = {
        int(name.removeprefix(_STEP)): value
        for name, value in trial.user_attrs.items()
        if name.startswith(_STEP)
    }
    return noted | trial.intermediate_values
