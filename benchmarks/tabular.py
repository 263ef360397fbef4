"""Compares predictors, or searches, on tables of measured candidates; prints a table, writes JSON.

python -m benchmarks.tabular predictor --data=DIR --out=r.json
python -m benchmarks.tabular predictor --tables=hpolib_protein_structure --seeds=5
python -m benchmarks.tabular search --data=DIR --limits=40M,60M,80M

DIR holds NAS-Bench-Macro's JSON file. The tables of HPOLib and NAS-Bench-201, XGBoost and
scikit-learn's regressors need the extra `bench`.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import tables
from jointnas_jax.command_line import define_out, define_path, integers, parse_flags, run_script
from jointnas_jax.errors import ConfigError, shown
from jointnas_jax.files import write_json
from jointnas_jax.rules import parse_quantity


def predictor() -> Iterator[dict[str, Any]]:
    """Compares predictors on all tables; the report grows with each of them."""
    values = flags.FLAGS
    sizes = integers("sizes", values.sizes, low=1, high=100_000)
    from benchmarks import predictors

    report: dict[str, Any] = {}
    compare = predictors.compare
    for name in values.tables:
        table = tables.load(name, Path(values.data))
        ceiling = predictors.noise_ceiling(table)
        report[name] = {"noise ceiling": ceiling}
        print(f"{name}, mean of {values.seeds} seeds at N =" + "".join(f"{n:>8}" for n in sizes))
        text = "unknown" if ceiling is None else f"{ceiling:.3f}"
        print(f"  noise ceiling of tau {text}", flush=True)
        for who, marks in compare(table, sizes, values.seeds, names=values.contestants):
            report[name][who] = marks
            for mark in ("tau", "regret", "inside"):
                row = [marks[n][mark] for n in sizes]
                if None not in row:
                    print(f"  {who:<24}{mark:<8}" + "".join(f"{value:8.3f}" for value in row))
            seconds = marks[sizes[-1]]["seconds"]
            print(f"  {who:<24}seconds {seconds:{8 * len(sizes)}.2f}", flush=True)
            yield report


def search() -> Iterator[dict[str, Any]]:
    """Compares searches on all tables, under all limits; the report grows with each of them."""
    from benchmarks import searches

    values = flags.FLAGS
    report: dict[str, Any] = {}
    for name in values.tables:
        table = tables.load(name, Path(values.data))
        for text in values.limits or [""]:
            limit = parse_quantity(text) if text else None
            key = f"{name}, {table.cost_names[0]} <= {text}" if text else name
            report[key] = results = {}
            print(f"{key}: mean regret of {values.seeds} seeds after so many evaluations")
            print(f"  {'':<24}" + "".join(f"{n:>9}" for n in searches.AT), flush=True)
            objective = searches.Objective(table, limit, values.noisy)
            for who, marks in searches.compare(objective, values.seeds, values.contestants):
                results[who] = marks
                print(f"  {who:<24}" + "".join(f"{r:9.4f}" for r in marks["regret"]), flush=True)
                needed = ["-" if n is None else n for n in marks["evaluations"]]
                print(f"  {'  as the first after':<24}" + "".join(f"{n:>9}" for n in needed))
                yield report


COMMANDS = {"predictor": predictor, "search": search}


def main(argv: list[str]) -> int:
    """Runs a comparison; returns the exit code."""
    names = parse_flags(argv, flags.FLAGS, "the comparison")
    if len(names) != 1 or names[0] not in COMMANDS:
        raise ConfigError(f"name one of {', '.join(COMMANDS)}, got {shown(names)}")
    for report in COMMANDS[names[0]]():
        if flags.FLAGS.out:  # after each contestant: all of them take hours
            write_json(Path(flags.FLAGS.out), report)
    return 0


if __name__ == "__main__":
    define_path("data", "", "Folder of NAS-Bench-Macro's JSON file.")
    flags.DEFINE_list("tables", ["macro"], f"Of {', '.join(tables.NAMES)}.")
    flags.DEFINE_integer("seeds", 20, "Repetitions.", 1)
    flags.DEFINE_list("contestants", [], "Who takes part; none: all.")
    flags.DEFINE_list("sizes", ["20", "50", "100", "200", "400"], "Candidates learnt from.")
    flags.DEFINE_list("limits", [], "Limits of the first cost, such as 40M; none: free.")
    flags.DEFINE_bool("noisy", False, "An evaluation is one run, not the mean of all.")
    define_out("JSON file for the report, written after each contestant.")
    sys.exit(run_script(sys.argv, __doc__, main))
