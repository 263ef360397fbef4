"""Measures the evolution on FBNetV3's joint space; prints a table, writes JSON.

python -m benchmarks.evolution_speed --out=r.json

PyTorch and pymoo are in the extra `bench`.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path

from absl import flags

from benchmarks import evolution as bench
from jointnas_jax.command_line import parse_flags, run_script
from jointnas_jax.errors import ConfigError, nearest

POPULATION = flags.DEFINE_integer("population", 1000, "Survivors of a generation.", 2)
CHILDREN = flags.DEFINE_integer("children_per_parent", 16, "Children of each.", 1)
GENERATIONS = flags.DEFINE_integer("generations", 20, "Generations of a measurement.", 1)
REPEATS = flags.DEFINE_integer("repeats", 5, "Repetitions; medians count.", 1)
NAMES = flags.DEFINE_list("contestants", list(bench.CONTESTANTS), "Who takes part.")
OUT = flags.DEFINE_string("out", "", "JSON file for the results.")

_NEEDS = {"numpy+torch": "torch", "pymoo": "pymoo"}


def main(argv: list[str]) -> int:
    """Runs the comparison; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    names = []
    for name in NAMES.value:
        if name not in bench.CONTESTANTS:
            raise ConfigError(f"there is no contestant `{name}`{nearest(name, bench.CONTESTANTS)}")
        if name in _NEEDS and importlib.util.find_spec(_NEEDS[name]) is None:
            print(f"{_NEEDS[name]} is not installed (pip install -e '.[bench]'): left out.")
            continue
        names.append(name)
    task = bench.Task(POPULATION.value, CHILDREN.value, GENERATIONS.value)
    rates = bench.compare(task, REPEATS.value, names)
    print(f"children per second; generations of {task.children:,}; {os.cpu_count()} cores")
    print(f"  {'':<12}" + "".join(f"{name:>16}" for name in names))
    for predictor, found in rates.items():
        print(f"  {predictor:<12}" + "".join(f"{found[name]:16,.0f}" for name in names))
    fine = bench.fine_stage(task, POPULATION.value, REPEATS.value)
    print(
        f"fine stage of {POPULATION.value:,}, to saturation: {fine['seconds']:.2f} s, "
        f"{fine['generations']} generations, {fine['children']:,} children, "
        f"{fine['duplicates']:,} of them duplicates\n"
        f"pretraining on 20,000 architectures {fine['pretrain_seconds']:.2f} s, "
        f"fit to 200 trials {fine['fit_seconds']:.2f} s"
    )
    costs = bench.costs_per_second(task, REPEATS.value)
    print(f"exact FLOPs and params: {costs:,.0f} candidates per second")
    if OUT.value:
        report = {"children_per_second": rates, "fine_stage": fine, "costs_per_second": costs}
        Path(OUT.value).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
