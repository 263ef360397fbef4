"""Costs and budgets, from the form of a user to the form of a search."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from jointnas_jax.arguments import check_function
from jointnas_jax.errors import InputError, nearest, one_line, shown
from jointnas_jax.library.space import AnySpace, columns
from jointnas_jax.nets.cost import COSTS, CostTable
from jointnas_jax.predictor.predictor import CostFeatures
from jointnas_jax.rules import QUANTITY, parse_quantity, plain
from jointnas_jax.space import JointSpace
from jointnas_jax.strategy.constraints import SAMPLE, Constraints, standardised

# Columns of knob values -> name of each cost -> number of each candidate.
# The largest number of 64 bits: a higher limit is none.
_LARGEST = sys.float_info.max

CostFn = Callable[[dict[str, np.ndarray]], Mapping[str, Any]]
Budget = Mapping[str, float | str]


class Costs(NamedTuple):
    """Costs of candidates and their limits.

    Attributes:
      names: names of P costs.
      of: `int32[N, K] -> float64[N, P]`, on the host; None without costs.
      limits: a column of the costs and its limit, each.
      features: see `Searcher`; None: derived from `of`.
      feasible: see `Searcher`; None: derived from the budget.
      repair: see `evolve`; None: repair by bisection.
      logged: names of the columns of `features`; None: all.
    """

    names: tuple[str, ...] = ()
    of: Callable[[np.ndarray], np.ndarray] | None = None
    limits: tuple[tuple[int, float], ...] = ()
    features: CostFeatures | None = None
    feasible: Callable[[Any], Any] | None = None
    repair: Callable[[Any, Any], Any] | None = None
    logged: tuple[str, ...] | None = None

    @classmethod
    def read(cls, space: AnySpace, costs: CostFn | None, budget: Budget | None) -> "Costs":
        """Reads the costs and the budget of a user.

        Args:
          space: the search space.
          costs: see `jn.search`; None: FLOPs and more in the joint space, no costs in others.
          budget: name of a cost -> limit, a number or text such as "1.5M".

        Raises:
          InputError: the costs break a rule, or the budget names none of them.
        """
        check_function("costs", costs, optional=True)
        if costs is not None:
            checked = _Checked(space, costs)
            return cls(checked.names, checked, _limits(budget, checked.names))
        if not isinstance(space, JointSpace):
            return cls(limits=_limits(budget, ()))
        table = CostTable.of(space)
        limits = _limits(budget, COSTS)
        # No network costs 2^62 (`CostTable`), which 64 bits hold.
        named = {COSTS[column]: int(min(limit, 2**62)) for column, limit in limits}
        return cls(
            names=COSTS,
            of=table,
            limits=limits,
            features=standardised(table.logs(("flops", "params")), space),
            logged=("flops", "params"),
            feasible=table.within(named) if named else None,
            repair=table.shrink(tuple(named)) if named else None,
        )

    @property
    def budget(self) -> dict[int, float]:
        """Column of the costs -> limit."""
        return dict(self.limits)

    def front(self, name: str | None) -> int | None:
        """The column of the features that is the cost of a front; None where there is none.

        Raises:
          InputError: there is no such cost.
        """
        if name is None:
            return None
        names = self.names if self.logged is None else self.logged
        if not isinstance(name, str):
            raise InputError(f"`front` must be the name of a cost, or None, got {shown(name)}")
        if not names:
            raise InputError(
                f"`front` is over `{one_line(name)}`, but nothing says what a candidate costs; "
                "give `costs`"
            )
        if name not in names:
            raise InputError(f"`front` has no cost `{one_line(name)}`{nearest(name, names)}")
        return names.index(name)

    def by_name(self, vectors: np.ndarray) -> list[dict[str, float]]:
        """Name of each cost -> number, of each of `int32[N, K]`."""
        if self.of is None:
            return [{} for _ in vectors]
        rows = self.of(vectors).tolist()
        return [dict(zip(self.names, row, strict=True)) for row in rows]

    def constraints(self, space: AnySpace) -> Constraints:
        """The rules that candidates obey, for use without a searcher."""
        return Constraints(space, self.of, self.budget, self.feasible, self.names)


@contextlib.contextmanager
def unwrapped_errors(*functions: Any) -> Iterator[None]:
    """Raises the error of a user's function itself, where a compiled program called it.

    Args:
      *functions: what the programs call; a user's function has `broken`.
    """
    users = [function for function in functions if hasattr(function, "broken")]
    for function in users:
        function.broken = None  # that of an earlier search
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        broken = [function.broken for function in users if function.broken]
        raise (broken or [error])[0] from error


class _Checked:
    """A user's costs as an array.

    Two are equal where they call the same object, and it returned the same: an object may be equal
    to another one that returns something else, and may have changed since.

    Attributes:
      names: names of the costs, from a first call.
      broken: the error of a call that failed.
    """

    def __init__(self, space: AnySpace, costs: CostFn):
        self._space = space
        self._costs = costs
        self.names: tuple[str, ...] = ()
        self.broken: InputError | None = None
        sample = space.sample(np.random.default_rng(0), SAMPLE)
        self.names = tuple(self._call(sample[:2]))
        if not self.names:
            raise InputError("`costs` must name at least one cost, got an empty dict")
        self(sample[:2])
        # All that a search derives from costs once comes from this sample.
        self._identity = (id(costs), space, self.names, self(sample).tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Checked) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Costs `float64[N, P]` of `int32[N, K]`."""
        try:
            return self._checked(np.asarray(vectors))
        except InputError as error:
            self.broken = error
            raise

    def _checked(self, vectors: np.ndarray) -> np.ndarray:
        costs = self._call(vectors)
        if tuple(costs) != self.names:
            raise InputError(
                f"`costs` must always name the same costs, here {list(self.names)}, got "
                f"{list(costs)}"
            )
        return np.stack([self._column(n, v, len(vectors)) for n, v in costs.items()], -1)

    def _call(self, vectors: np.ndarray) -> Mapping[str, Any]:
        try:
            costs = self._costs(columns(self._space, vectors))
        except Exception as error:  # it is the user's code
            raise InputError(
                f"`costs` failed on arrays of {len(vectors)} candidates: {one_line(error)}; each "
                "knob is an array: use numpy.where instead of `if`, or numpy.vectorize"
            ) from error
        if not isinstance(costs, Mapping):
            raise InputError(
                "`costs` must return a dict, name of each cost -> an array of numbers, got "
                f"{shown(costs)}"
            )
        return costs

    def _column(self, name: str, values: Any, count: int) -> np.ndarray:
        try:
            values = np.asarray(values, np.float64)
        except Exception:  # whatever an object of the user's raises
            values = np.full(1, np.nan)
        if values.shape == ():  # every candidate costs as much
            values = np.full(count, values)
        if values.shape != (count,) or not np.isfinite(values).all():
            raise InputError(
                f"cost `{name}` must be a finite number for each of {count} candidates, got "
                f"{shown(values.tolist())}"
            )
        return values


def _limits(budget: Budget | None, names: tuple[str, ...]) -> tuple[tuple[int, float], ...]:
    """Each column of a cost that is limited, and its limit."""
    if budget is not None and not isinstance(budget, Mapping):
        raise InputError(f"`budget` must be a dict, name of a cost -> limit, got {shown(budget)}")
    limits = []
    for name, limit in (budget or {}).items():
        if not names:
            raise InputError(
                f"`budget` limits `{one_line(name)}`, but nothing says what a candidate costs; "
                "give `costs`"
            )
        if name not in names:
            raise InputError(f"`budget` has no cost `{one_line(name)}`{nearest(name, names)}")
        limits.append((names.index(name), _limit(name, limit)))
    return tuple(limits)


def _limit(name: str, given: Any) -> float:
    limit = plain(given)
    if isinstance(limit, str):
        if limit and QUANTITY.holds(limit):
            return parse_quantity(limit)
    elif isinstance(limit, int | float) and not isinstance(limit, bool) and 0 < limit < math.inf:
        return min(limit, _LARGEST)
    raise InputError(
        f'the limit of `{name}` must be a number above 0, or text such as "1.5M", got '
        f"{shown(given)}"
    )
