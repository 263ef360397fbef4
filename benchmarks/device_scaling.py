"""Steps per second against devices; prints a table, writes JSON.

python -m benchmarks.device_scaling --devices=1,2,4,8 --out=scaling.json

Two ways to use several devices: a candidate on each, side by side, and one network on all of them,
which share its batches, with BN over the whole batch. Each number of devices is a process of its
own: JAX reads JAX_NUM_CPU_DEVICES when it starts. CPU devices share the cores of the machine.
"""

import os
import sys
from pathlib import Path

from absl import flags

from benchmarks.scaling import Task, measure
from jointnas_jax.command_line import integers, parse_config, run_script
from jointnas_jax.errors import ConfigError, WorkdirError
from jointnas_jax.files import write_json

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"

DEVICES = flags.DEFINE_list("devices", ["1", "2", "4", "8"], "Numbers of devices, from 1 to 4096.")
STEPS = flags.DEFINE_integer("steps", 60, "Steps of an epoch.", 2, 100_000)
EPOCHS = flags.DEFINE_integer("epochs", 3, "That are timed, after one that is not.", 1, 1000)
OUT = flags.DEFINE_string("out", "", "JSON file for the results.")


def main(argv: list[str]) -> int:
    """Measures; returns the exit code."""
    config = parse_config(argv, str(DEFAULT_CONFIG), flags.FLAGS)
    counts = sorted(set(integers("devices", DEVICES.value, low=1, high=4096)))
    if odd := [n for n in counts if config.train.batch_size % n]:
        raise ConfigError(
            f"`config.train.batch_size` must be a multiple of the devices that share a batch, "
            f"{odd[0]}, got {config.train.batch_size}"
        )
    out = Path(OUT.value) if OUT.value else None
    if out and (out.suffix != ".json" or not out.parent.is_dir()):
        raise WorkdirError(f"`--out` must be a .json file in an existing folder, got `{OUT.value}`")
    report = measure(Task.of(config, STEPS.value, EPOCHS.value), counts)
    print(
        f"{config.name}: default candidate, batches of {config.train.batch_size}, "
        f"{os.cpu_count()} cores"
    )
    print(f"  {'devices':>8}{'side by side':>22}{'one network':>22}")
    for row in report["rows"]:
        cells = (
            f"{r['steps_per_second']:>12.1f} ({r['speedup']:>5.2f}x)"
            for r in (row["side_by_side"], row["together"])
        )
        print(f"  {row['devices']:>8}  " + "  ".join(cells))
    if out:
        write_json(out, report)
        print(f"  wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main))
