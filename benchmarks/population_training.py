"""Compares ways to train many candidates; prints a table, writes JSON.

python -m benchmarks.population_training --out=r.json
python -m benchmarks.population_training --candidates=6 --long_steps=0 --contestants=program,torch

On an accelerator: --lanes=8 sets how many candidates train at once on one device. PyTorch is in the
extra `bench`.
"""

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

from absl import flags

from benchmarks.population import CONTESTANTS, Task, compare
from jointnas_jax.command_line import load_config, parse_flags, run_script
from jointnas_jax.errors import ConfigError

_TASK = Task()
CONFIG = flags.DEFINE_string("config", "", "Take the space of this config instead of our own.")
CANDIDATES = flags.DEFINE_integer("candidates", _TASK.candidates, "Random candidates.", 1)
SHORT = flags.DEFINE_integer("short_steps", 60, "Steps of a candidate, short; a multiple of 60.")
LONG = flags.DEFINE_integer("long_steps", 600, "Steps of a candidate, long; 0: leave it out.")
BATCH = flags.DEFINE_integer("batch", _TASK.batch, "Images of a step.", 2)
LANES = flags.DEFINE_integer("lanes", 0, "Candidates at once on a device; 0: as many as fit.", 0)
THREADS = flags.DEFINE_integer("threads", _TASK.threads, "Threads of PyTorch.", 1)
SEED = flags.DEFINE_integer("seed", 0, "Of candidates and images.")
NAMES = flags.DEFINE_list(
    "contestants", ["program", "jit", "torch"], f"Of {', '.join(CONTESTANTS)}; jit_lax takes hours."
)
OUT = flags.DEFINE_string("out", "", "JSON file for the results.")


def main(argv: list[str]) -> int:
    """Runs the comparison; returns the exit code."""
    parse_flags(argv, flags.FLAGS)
    names = tuple(NAMES.value)
    if "torch" in names and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed (pip install -e '.[bench]'): left out.", file=sys.stderr)
        names = tuple(n for n in names if n != "torch")
    if unknown := set(names) - set(CONTESTANTS):
        raise ConfigError(f"`--contestants` must be of {CONTESTANTS}, got {sorted(unknown)}")
    if bad := [s for s in (SHORT.value, LONG.value) if s % 60 or s < 0]:
        raise ConfigError(f"steps must be multiples of 60, got {bad[0]}")
    task = Task(CANDIDATES.value, SHORT.value, BATCH.value, LANES.value, THREADS.value, SEED.value)
    if CONFIG.value:
        space = load_config(CONFIG.value, argv[:1]).space.to_dict()
        task = dataclasses.replace(task, space=space)
    report = {"task": dataclasses.asdict(task)}
    for length, steps in (("short", SHORT.value), ("long", LONG.value)):
        if not steps:
            continue
        results = compare(dataclasses.replace(task, steps=steps), names)
        report[length] = results | {"steps": steps}
        print(f"{length}: {task.candidates} candidates, {steps} steps each, batch {task.batch}")
        print(f"  {'':<10}{'seconds':>10}{'ratio':>8}{'ms/step':>10}{'compiled':>10}")
        for name, r in results.items():
            ratio = r["seconds"] / results["program"]["seconds"] if "program" in results else 0
            step = "-" if r["ms_per_step"] is None else f"{r['ms_per_step']:.1f}"
            line = f"{r['seconds']:>10.1f}{ratio:>8.2f}{step:>10}"
            print(f"  {name:<10}{line}{r['compilations']:>10}")
        if "program" in results:
            deviation = results["program"].get("largest_deviation")
            print(f"  {results['program']['packing']}; largest deviation {deviation}")
            if found := results["program"]["roofline"]:
                print(
                    f"  {found['gigaoperations_per_second']:.0f} billion operations a second, "
                    f"{found['of_matmul_roof']:.0%} of what large matmuls do; "
                    f"{found['gigabytes_per_second']:.1f} GB of maps a second, "
                    f"{found['of_memory_roof']:.0%} of what memory does"
                )
    if OUT.value:
        Path(OUT.value).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
