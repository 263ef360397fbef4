"""Compares predictors, or searches, on tables of measured candidates; prints a table, writes JSON.

python -m benchmarks.tabular predictor --data=DIR --out=r.json
python -m benchmarks.tabular predictor --tables=hpolib_protein_structure --seeds=5
python -m benchmarks.tabular search --data=DIR --limits=40M,60M,80M

DIR holds NAS-Bench-Macro's JSON file. The HPOLib tables, XGBoost and scikit-learn's regressors need
the extra `bench`.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from absl import flags

from benchmarks import tables
from jointnas_jax.command_line import parse_flags, run_script
from jointnas_jax.errors import ConfigError, shown
from jointnas_jax.rules import parse_quantity

DATA = flags.DEFINE_string("data", "", "Folder of NAS-Bench-Macro's JSON file.")
TABLES = flags.DEFINE_list("tables", ["macro"], f"Of {', '.join(tables.NAMES)}.")
SEEDS = flags.DEFINE_integer("seeds", 20, "Repetitions.", 1)
NAMES = flags.DEFINE_list("contestants", [], "Who takes part; none: all.")
SIZES = flags.DEFINE_list("sizes", ["20", "50", "100", "200", "400"], "Candidates learnt from.")
LIMITS = flags.DEFINE_list("limits", [], "Limits of the first cost, such as 40M; none: free.")
NOISY = flags.DEFINE_bool("noisy", False, "An evaluation is one run, not the mean of all.")
OUT = flags.DEFINE_string("out", "", "JSON file for the results.")


def predictor() -> Iterator[dict]:
    """Compares predictors on all tables; the report grows with each of them."""
    from benchmarks import predictors

    sizes, report = [int(s) for s in SIZES.value], {}
    for name in TABLES.value:
        table = tables.load(name, Path(DATA.value))
        ceiling = predictors.noise_ceiling(table)
        report[name] = results = {"noise ceiling": ceiling}
        print(f"{name}, mean of {SEEDS.value} seeds at N =" + "".join(f"{n:>8}" for n in sizes))
        print(f"  noise ceiling of tau {ceiling:.3f}", flush=True)
        for who, marks in predictors.compare(table, sizes, SEEDS.value, NAMES.value):
            results[who] = marks
            for mark in ("tau", "regret", "inside"):
                values = [marks[n][mark] for n in sizes]
                if None not in values:
                    line = "".join(f"{value:8.3f}" for value in values)
                    print(f"  {who:<24}{mark:<8}{line}")
            seconds = marks[sizes[-1]]["seconds"]
            print(f"  {who:<24}seconds {seconds:{8 * len(sizes)}.2f}", flush=True)
            yield report


def search() -> Iterator[dict]:
    """Compares searches on all tables, under all limits; the report grows with each of them."""
    from benchmarks import searches

    report = {}
    for name in TABLES.value:
        table = tables.load(name, Path(DATA.value))
        for text in LIMITS.value or [""]:
            limit = parse_quantity(text) if text else None
            key = f"{name}, {table.cost_names[0]} <= {text}" if text else name
            report[key] = results = {}
            print(f"{key}: mean regret of {SEEDS.value} seeds after so many evaluations")
            print(f"  {'':<24}" + "".join(f"{n:>9}" for n in searches.AT), flush=True)
            for who, found in searches.compare(table, limit, SEEDS.value, NOISY.value, NAMES.value):
                results[who] = found
                print(f"  {who:<24}" + "".join(f"{r:9.4f}" for r in found["regret"]), flush=True)
                yield report


COMMANDS = {"predictor": predictor, "search": search}


def main(argv: list[str]) -> int:
    """Runs a comparison; returns the exit code."""
    names = parse_flags(argv, flags.FLAGS, "the comparison")
    if len(names) != 1 or names[0] not in COMMANDS:
        raise ConfigError(f"name one of {', '.join(COMMANDS)}, got {shown(names)}")
    for report in COMMANDS[names[0]]():
        if OUT.value:  # after each contestant: all of them take hours
            Path(OUT.value).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
