"""`jn.JointNASSampler`: the searcher in a study of Optuna's."""

import functools
import json
import secrets
import threading
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial
from optuna.search_space import intersection_search_space
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from jointnas_jax.arguments import check_function, check_integer, check_seed
from jointnas_jax.config import EvolutionConfig
from jointnas_jax.errors import InputError, shown
from jointnas_jax.library.costs import unwrapped_errors
from jointnas_jax.library.memory import Memory, remember
from jointnas_jax.library.parameters import LogCost, Parameters
from jointnas_jax.library.proposal import SpaceArrays, propose
from jointnas_jax.strategy.constraints import on_host
from jointnas_jax.strategy.history import ask
from jointnas_jax.strategy.pool import half_warped

# A running trial's parameters, for the others: Optuna itself knows them once they are suggested.
_PROPOSED = "jointnas_jax:proposed"
# What Optuna's databases hold in one attribute.
_LONGEST = 2045
# Even points that an evolution starts from, besides the trials.
_POOL = 256
# Even points for the first trials; after so many they begin again.
_CYCLE = 4096
_EVOLUTION = EvolutionConfig(population=128, generations=60)
# One proposal at a time in a process, so that each knows what the others will try.
_PROPOSING = threading.Lock()


class JointNASSampler(BaseSampler):
    """Proposes parameters by an evolution on a Gaussian process of the trials.

    A sampler like any other of Optuna's::

        study = optuna.create_study(sampler=jn.JointNASSampler(seed=0))

    Works with categorical, integer and real parameters, `log` and `step` included, for one
    direction, or for two where one is a cost that a function knows beforehand::

        sampler = jn.JointNASSampler(cost=lambda p: p["layers"] * p["width"])
        study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)

    It proposes what is expected to add most to the area under the front then, on a logarithmic axis
    of the cost (`predictor/front.py`).

    A real parameter takes 256 values; an integer one up to 4,096.

    All that it knows are the study's trials and its seed: it holds no state, so a study goes on in
    another process, and equal trials with equal seeds give equal proposals. The time of a proposal
    is bounded: where there are more trials, it learns from the best and the latest ones, and one
    compiled program serves any number of them.

    - The first trials are spread evenly (a Sobol sequence).
    - Parameters that not all trials have, or whose range changes, are drawn at random.
    - Where some parameters of a trial are fixed (`enqueue_trial`, `PartialFixedSampler`) the others
      are proposed for these values of them.
    - A trial that still runs is believed to score what is expected of it (`n_jobs`, several
      processes), so that no two try the same.
    - A trial that failed, or whose value is not finite, is believed to be as bad as the worst.
    - A pruned trial counts with its last reported value, but never as better than the median of the
      complete ones; without one it failed.
    - Constraints are soft: how far trials are outside is learnt, and candidates count by the
      probability of being inside. Both ways to give them work: `constraints_func`, and
      `trial.set_constraint` of Optuna 5.
    """

    def __init__(
        self,
        *,
        seed: int | None = None,
        n_startup_trials: int = 8,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        most_trials: int = 128,
        cost: Callable[[dict[str, np.ndarray]], Any] | None = None,
        cost_objective: int = 1,
        prior: Mapping[str, Any] | None = None,
    ):
        """Makes a sampler.

        Args:
          seed: seed of everything random, at least 0; None: another one each time.
          n_startup_trials: trials before the first that is proposed from what was measured.
          constraints_func: called with each finished trial, returns numbers that are above 0 where
            it breaks a constraint.
          most_trials: trials to learn from, at most; more take longer.
          cost: of two objectives the one that is known: a function from parameters (name -> array
            of the values of N candidates, as `costs` of `jn.search` gets them) to N numbers above
            0, what the study's objective returns as a cost, to be minimised. Parameters that not
            all trials have are not among them.
          cost_objective: which objective it is, 0 or 1.
          prior: which values are expected to be good, as of `jn.search`: name of a parameter ->
            weights or a centre and a width. Half of the first trials follow it, and the process
            expects it until trials correct it. Names that a study does not have are ignored.

        Raises:
          InputError: a number is out of range.
        """
        self._seed = secrets.randbits(31) if seed is None else check_seed(seed)
        self._startup = check_integer("n_startup_trials", n_startup_trials, 0, 1_000_000)
        self._most = check_integer("most_trials", most_trials, 4, 2048)
        self._constraints = check_function("constraints_func", constraints_func, optional=True)
        self._cost = check_function("cost", cost, optional=True)
        self._cost_objective = check_integer("cost_objective", cost_objective, 0, 1)
        self._prior = _check_prior(prior)
        # One function for each space, and for compiled programs: each is compiled into one.
        self._log_costs: dict[Any, tuple[LogCost, Callable[[Any], Any]]] = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Parameters that all complete trials have with the same range, and more than one value."""
        common = intersection_search_space(study.get_trials(deepcopy=False))
        return {name: d for name, d in common.items() if not d.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Proposes values of all parameters that `search_space` has, together."""
        self._check_objectives(study)
        # An enqueued trial that has all values needs no proposal.
        given = _given(trial)
        if search_space.keys() <= given.keys():
            return {}
        parameters, given = self._conditions(study, trial, search_space, given)
        pinned = parameters.partial_vector(given)
        with _PROPOSING:
            memory = self._memory(study, trial, parameters)
            fixed = _single_values(study) if self._cost else {}
            proposed = functools.partial(
                self._propose, parameters, trial.number, pinned, fixed=fixed
            )
            # Where all values have been tried the best are tried again.
            _, (vector,) = ask(proposed, memory, 1, repeat=True)
            values = parameters.values(vector)
            # Not the nearest that the grid has.
            names = zip(values, pinned, strict=True)
            values |= {name: given[name] for name, index in names if index >= 0}
            # Longer values are seen by the others once they are suggested.
            if len(json.dumps(values, default=str)) <= _LONGEST:
                study._storage.set_trial_system_attr(trial._trial_id, _PROPOSED, values)
        return {name: values[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Draws a value of one parameter at random."""
        self._check_objectives(study)
        name = (self._seed, trial.number, zlib.crc32(param_name.encode()))
        seed = int(np.random.SeedSequence(name).generate_state(1)[0])
        parameters = Parameters({param_name: param_distribution})
        if prior := parameters.prior(self._prior):
            point = np.random.default_rng(seed).random((1, 2))
            (vector,) = parameters.space.from_unit(half_warped(point, prior))
            return parameters.values(vector)[param_name]
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Stores the constraints of a finished trial."""
        if self._constraints is not None:
            _process_constraints_after_trial(self._constraints, study, trial, state)

    def _conditions(
        self,
        study: Study,
        trial: FrozenTrial,
        search_space: dict[str, BaseDistribution],
        given: dict[str, Any],
    ) -> tuple[Parameters, dict[str, Any]]:
        """The parameters that trials have in common, and the values that are fixed already.

        A `PartialFixedSampler` leaves its own out of the search space. They belong to it: with
        another value of them, other values of the rest are good, and new.
        """
        space, outer = search_space, getattr(study, "sampler", None)
        if isinstance(outer, PartialFixedSampler):
            space = self.infer_relative_search_space(study, trial) | search_space
            for name in space.keys() - search_space.keys():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # Optuna says it itself when it is suggested
                    value = outer.sample_independent(study, trial, name, space[name])
                given = {name: value} | given
        return Parameters(space), given

    def _memory(self, study: Study, trial: FrozenTrial, parameters: Parameters) -> Memory:
        known = None if self._cost is None else self._cost_objective
        objective = 0 if known is None else 1 - known
        sign = -1.0 if study.directions[objective] is StudyDirection.MINIMIZE else 1.0
        trials = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        proposed = {
            t.number: t.system_attrs.get(_PROPOSED, {}) | _given(t)
            for t in trials
            if t.state is TrialState.RUNNING
        }
        return remember(trials, proposed, parameters, sign, objective=objective, cost=known)

    def __getstate__(self) -> dict[str, Any]:
        """Without compiled functions, which cannot be pickled."""
        return self.__dict__ | {"_log_costs": {}}

    def _check_objectives(self, study: Study) -> None:
        """Raises unless there is one objective, or besides it a known cost.

        Without a cost what Optuna's samplers of one objective raise, a `ValueError`.
        """
        directions = study.directions
        if self._cost is None:
            if len(directions) == 1:
                return
            raise ValueError(
                f"JointNASSampler searches one objective, and this study has {len(directions)}; "
                "where one of two is a cost that is known before a trial, give its function as "
                "`cost`, else take optuna.samplers.GPSampler or NSGAIISampler"
            )
        known = self._cost_objective
        if len(directions) != 2 or directions[known] is not StudyDirection.MINIMIZE:
            raise InputError(
                "`cost` is for studies of two objectives, of which it is the one to minimise, "
                f"number {known}; this study has {[d.name.lower() for d in directions]}: make it "
                "with such `directions`, or give another `cost_objective`"
            )

    def _log_cost(
        self, parameters: Parameters, fixed: Mapping[str, Any]
    ) -> tuple[LogCost | None, Callable[[Any], Any] | None]:
        """The logarithm of the known cost, on the host and under `jit`.

        The `fixed` are parameters of one value, which are not searched.
        """
        if self._cost is None:
            return None, None
        # By the values: knobs of categorical parameters hold positions.
        name = repr((parameters.distributions, sorted(fixed.items())))
        if name not in self._log_costs:
            host = LogCost(self._cost, parameters, fixed)
            self._log_costs[name] = host, on_host(host, np.float32)
        return self._log_costs[name]

    def _propose(
        self,
        parameters: Parameters,
        number: int,
        pinned: np.ndarray,
        memory: Memory,
        *,
        fixed: Mapping[str, Any],
    ) -> tuple[Memory, np.ndarray]:
        """Proposes for the trial of this number, see `Propose`.

        All candidates have the values of `pinned: int32[K]`, where it is not negative.
        """
        space = parameters.space
        pin = lambda vectors: np.where(pinned < 0, vectors, pinned)
        prior = parameters.prior(self._prior)
        width, rng = len(space.knobs) + (prior is not None), np.random.default_rng(self._seed)
        even = scipy.stats.qmc.Sobol(width, scramble=True, rng=rng)
        starts = len(memory.measured[1]) < max(1, self._startup)
        if starts:
            even.fast_forward(number % _CYCLE)
        points = even.random(_POOL)
        pool = pin(space.from_unit(points if prior is None else half_warped(points, prior)))
        if starts:
            return memory, pool
        seen = memory.arrays(self._most)
        known, log_cost = self._log_cost(parameters, fixed)
        with unwrapped_errors(known):
            population, marks = jax.device_get(
                propose(
                    SpaceArrays.of(space),
                    seen,
                    np.concatenate([pin(seen.vectors), pool]),
                    pinned,
                    jax.random.fold_in(jax.random.key(self._seed), number),
                    constrained=bool(seen.judged.any()),
                    settings=_EVOLUTION,
                    log_cost=log_cost,
                    prior=prior,
                )
            )
        return memory, np.concatenate([np.asarray(population)[np.isfinite(marks)], pool])


def _check_prior(prior: Any) -> dict[str, Any]:
    """What is expected of each parameter; whether it can be is known once there is one."""
    given = {} if prior is None else prior
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise InputError(
            f"`prior` must be a dict, name of a parameter -> what is expected, got {shown(prior)}"
        )
    return dict(given)


def _single_values(study: Study) -> dict[str, Any]:
    """The values of parameters that all trials have and that have no other one."""
    every = intersection_search_space(study.get_trials(deepcopy=False))
    first = lambda d: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low
    return {name: first(d) for name, d in every.items() if d.single()}


def _given(trial: FrozenTrial) -> dict[str, Any]:
    """Values that a trial has before anything is proposed, or has been suggested since."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params
