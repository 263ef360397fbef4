"""How well predictors rank candidates they have not seen, on tables.

Each predictor learns from N random candidates of a table, with the mean of their runs as label, and
ranks 2,000 others. All but the `-plain` ones also get the costs, which are free, as features.
"""

import collections
import functools
import importlib.util
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from scipy.stats import kendalltau

from benchmarks.tables import Table
from jointnas_jax.config import PredictorConfig
from jointnas_jax.errors import InputError, nearest, needs_extra
from jointnas_jax.predictor.predictor import Predictor
from jointnas_jax.space.features import FeatureTable

_TEST = 2000
_TOP = 10

# A predictor learns rows of a table and a seed, and returns mean and spread (or None) of others.
Scores = tuple[np.ndarray, np.ndarray | None]
Contestant = Callable[[np.ndarray, np.ndarray, int], Scores]

OURS: Mapping[str, PredictorConfig] = {
    "ours": PredictorConfig(),
    "ours-unpretrained": PredictorConfig(pretrain_epochs=0),
    "ours-networks": PredictorConfig(process=False),
    "ours-raw": PredictorConfig(targets="raw"),
    "ours-one-network": PredictorConfig(members=1),
    "ours-nocosts": PredictorConfig(),
    "ours-trend": PredictorConfig(trend=True),
    "paper": PredictorConfig(members=1, process=False, targets="raw"),
}


def ours(table: Table, config: PredictorConfig, capacity: int, *, costs: bool = True) -> Contestant:
    """The project's predictor in one of its settings; pretrained once, on a random sample.

    Without `costs` the process does not see them; the networks are pretrained on them all the same.
    """
    cost_features = table.cost_features() if costs else None
    features = FeatureTable.of(table.space)
    predictor = Predictor(features, config, capacity=capacity, costs=cost_features)
    sample = table.space.sample(np.random.default_rng(0), config.pretrain_samples)
    pretrained = predictor.pretrain(sample, table.costs[table.rows(sample)], jax.random.key(0))

    def learn(train: np.ndarray, test: np.ndarray, seed: int) -> Scores:
        key = jax.random.key(seed)
        state = predictor.fit(pretrained, table.vectors[train], table.scores[train], key=key)
        return predictor.predict(state, table.vectors[test])

    return learn


def peers(table: Table, with_costs: bool) -> dict[str, Contestant]:
    """Usual regressors at their default settings, on one-hot features; labels standardised."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
    from sklearn.linear_model import RidgeCV
    from sklearn.svm import SVR

    # A kernel at the bound of its noise has seen none.
    warnings.simplefilter("ignore", ConvergenceWarning)
    makers: dict[str, Callable[[int], Any]] = {
        "ridge": lambda seed: RidgeCV(np.logspace(-3, 3, 13)),
        "SVR": lambda seed: SVR(C=10.0),
        "forest": lambda seed: RandomForestRegressor(200, random_state=seed),
        "GP": lambda seed: GaussianProcessRegressor(ConstantKernel() * RBF(3.0) + WhiteKernel(0.1)),
    }
    try:
        from xgboost import XGBRegressor

        makers["XGBoost"] = lambda seed: XGBRegressor(
            n_estimators=300, learning_rate=0.05, max_depth=4, random_state=seed, n_jobs=1
        )
    except ImportError:
        pass
    columns = [np.eye(c)[table.vectors[:, j]] for j, c in enumerate(table.space.cardinalities)]
    if with_costs:
        columns.append(table.cost_features()(table.vectors))
    features = np.concatenate(columns, 1)

    def learn(make: Any, train: np.ndarray, test: np.ndarray, seed: int) -> Scores:
        labels = table.scores[train]
        mean, std = labels.mean(), labels.std()
        model = make(seed).fit(features[train], (labels - mean) / std)
        return model.predict(features[test]) * std + mean, None

    suffix = "" if with_costs else "-plain"
    return {name + suffix: functools.partial(learn, make) for name, make in makers.items()}


def check_names(names: Sequence[str], contestants: Collection[str]) -> None:
    """Raises `InputError` for a name of no contestant."""
    for name in names:
        if name not in contestants:
            raise InputError(f"there is no contestant `{name}`{nearest(name, contestants)}")


def who_can(
    names: Sequence[str], contestants: Collection[str], needs: Mapping[str, str]
) -> list[str]:
    """Contestants that take part: those that are named, or else all that are installed.

    Args:
      names: those that are named.
      contestants: all of them.
      needs: contestant -> module of the extra `peers` that it needs.

    Raises:
      InputError: a name of no contestant, or of one that is not installed.
    """
    check_names(names, contestants)
    missing = {who: m for who, m in needs.items() if importlib.util.find_spec(m) is None}
    for name in names:
        if name in missing:
            raise InputError(needs_extra(f"contestant `{name}`", missing[name], "peers"))
    return [*names] or [name for name in contestants if name not in missing]


def standard_error(values: np.ndarray) -> np.ndarray:
    """Standard error of the means over the first axis."""
    return values.std(0) / np.sqrt(max(len(values) - 1, 1))


def marks(true: np.ndarray, scores: Scores) -> dict[str, float]:
    """How good predictions of candidates with true scores `float64[N]` are.

    Returns:
      `tau`, Kendall's rank correlation; `regret`, best score minus the best among the ten predicted
      best; `inside`, share of true scores within 1.64 spreads of the prediction (0.9 if
      calibrated), where there are spreads.
    """
    mean, spread = scores
    values = {
        # A constant prediction ranks nothing.
        "tau": float(np.nan_to_num(kendalltau(mean, true)[0])),
        "regret": float(true.max() - true[np.argsort(-mean)[:_TOP]].max()),
    }
    if spread is not None:
        values["inside"] = float((np.abs(true - mean) <= 1.64 * spread).mean())
    return values


def compare(
    table: Table, sizes: Sequence[int], seeds: int, *, names: Sequence[str] = ()
) -> Iterator[tuple[str, dict[int, dict[str, float | None]]]]:
    """Yields predictors by name (none: all), each with the summary of its `marks` for each N.

    `seeds` are repetitions with other candidates; all predictors get the same ones. The summary has
    means over them, the standard error of tau, and the median of the seconds.
    """
    others = peers(table, with_costs=True) | peers(table, with_costs=False)
    check_names(names, [*OURS, *others])
    for name in names or [*OURS, *others]:
        learn = others.get(name)
        if learn is None:
            learn = ours(table, OURS[name], max(sizes), costs=name != "ours-nocosts")
        yield name, {size: _learnt(learn, table, size=size, seeds=seeds) for size in sizes}


def _learnt(learn: Contestant, table: Table, *, size: int, seeds: int) -> dict[str, float | None]:
    """Summary of a predictor that learns from so many candidates."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(table.vectors))
        test = order[size : size + _TEST]
        start = time.perf_counter()
        scores = learn(order[:size], test, seed)
        values["seconds"].append(time.perf_counter() - start)
        for mark, value in marks(table.scores[test], scores).items():
            values[mark].append(value)
    return {
        "tau": float(np.mean(values["tau"])),
        "tau_error": float(standard_error(np.array(values["tau"]))),
        "regret": float(np.mean(values["regret"])),
        "inside": float(np.mean(values["inside"])) if values["inside"] else None,
        "seconds": float(np.median(values["seconds"])),
    }


def noise_ceiling(table: Table) -> float | None:
    """Kendall's tau that a perfect predictor of the noise-free scores can be expected to have.

    It is compared with labels of R runs: the mean of the runs is taken for the truth, and labels
    are the truth with normal noise as large as each candidate's runs differ, less by the root of R.
    None with a single run. As that truth has noise, too, and spreads more by it, this is a little
    too high.
    """
    runs = table.runs.shape[1]
    if runs < 2:
        return None
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(table.scores))[:_TEST]
    truth, noise = table.scores[rows], table.runs[rows].std(1, ddof=1) / np.sqrt(runs)
    draws = [kendalltau(truth, truth + noise * rng.normal(size=len(truth)))[0] for _ in range(10)]
    return float(np.mean(draws))
