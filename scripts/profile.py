"""Measures on this device how fast a network is, or times all blocks of a space.

python scripts/profile.py fbnetv3_a --batch=32
python scripts/profile.py runs/digits --json
python scripts/profile.py table --config=configs/digits.py

A network is a published one, a candidate's file, or the winner in a workdir. With a table of a
space, the latency can be a budget: run_joint.py --config.budget.latency=2.5ms.
"""

import importlib.util
import json
import sys
import sysconfig
from pathlib import Path

if __name__ == "profile":
    # The standard library has a module of this name, and cProfile, which many libraries import,
    # looks for it first beside the script that runs: one of this folder. It gets what it wants.
    spec = importlib.util.spec_from_file_location(
        __name__, Path(sysconfig.get_path("stdlib")) / "profile.py"
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[__name__] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
else:
    here = Path(__file__).resolve().parent
    sys.path[:] = [folder for folder in sys.path if Path(folder).resolve() != here]

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "digits.py"


def main(argv: list[str]) -> int:
    """Profiles a network or a space; returns the exit code."""
    from absl import flags

    from jointnas_jax.command_line import parse_config, parse_flags
    from jointnas_jax.errors import ConfigError, shown
    from jointnas_jax.nets import zoo

    values = flags.FLAGS
    table = "table" in argv[1:]
    if table:
        rest = [argument for argument in argv if argument != "table"]
        config = parse_config(rest, str(DEFAULT_CONFIG), values)
        if not Path(values.out).resolve().parent.is_dir():
            raise ConfigError(f"`--out` must be in an existing folder, got {shown(values.out)}")
    else:
        names = parse_flags(argv, values, "the network")
        if len(names) != 1:
            raise ConfigError(f"name one network or workdir, or `table`, got {shown(names)}")
        if not Path(names[0]).is_dir():
            zoo.find(names[0])
    # Only now: the imports below take seconds, and an error should not.
    from jointnas_jax.files import write_json
    from jointnas_jax.models.latency_profile import print_profile, profile_network, profile_space
    from jointnas_jax.runtime.jax_setup import prepare_jax
    from jointnas_jax.telemetry.console import plain_console

    prepare_jax(devices=1)
    console = plain_console(stderr=table and values.json)
    if table:
        report = profile_space(
            config, console, values.check, minutes=values.minutes, again=values.again
        )
        if values.out:
            write_json(Path(values.out), report)
    else:
        report = profile_network(
            names[0],
            batch=values.batch,
            repeats=values.repeats,
            lowering=values.lowering,
            dtype=values.dtype,
        )
        if not values.json:
            print_profile(report, console)
    if values.json:
        print(json.dumps(report, indent=1))
    return 0


if __name__ == "__main__":
    from absl import flags

    from jointnas_jax.command_line import define_path, run_script

    flags.DEFINE_bool("json", False, "Print JSON instead of text.")
    flags.DEFINE_integer("batch", 32, "Images at once, for the throughput.", 1, 65_536)
    flags.DEFINE_integer("repeats", 50, "Calls that are timed.", 5, 100_000)
    lowerings = ["auto", "conv", "diagonal", "matmul"]
    flags.DEFINE_enum("lowering", "conv", lowerings, "Of convolutions.")
    flags.DEFINE_enum("dtype", "float32", ["auto", "float32", "bfloat16"], "Of feature maps.")
    flags.DEFINE_integer("check", 30, "table: networks to time whole, at most.", 3, 1000)
    flags.DEFINE_float("minutes", 0.0, "table: to spend on blocks, about; 0: all it takes.", 0.0)
    flags.DEFINE_bool("again", False, "table: time blocks that are known, too.")
    define_path("out", "", "table: JSON file for the report.")
    sys.exit(run_script(sys.argv, __doc__, main, answers=True))
