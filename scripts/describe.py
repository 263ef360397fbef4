"""Describes a network: its stages, resolution, FLOPs and params.

python scripts/describe.py fbnetv3_a
python scripts/describe.py runs/digits/winner0.json --json
python scripts/describe.py fbnetv3_e --scale_to=1.2G --out=f.json
"""

import dataclasses
import json
import sys
from pathlib import Path

from absl import flags

from jointnas_jax.command_line import define_path, parse_flags, run_script
from jointnas_jax.errors import ConfigError, WorkdirError, shown
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.scaling import scale, scale_to
from jointnas_jax.report.architecture import print_arch
from jointnas_jax.rules import parse_quantity
from jointnas_jax.space import ArchSpec
from jointnas_jax.telemetry.console import plain_console

JSON = flags.DEFINE_bool("json", False, "Print JSON instead of tables.")
PLAIN = flags.DEFINE_bool(
    "plain_padding", False, "Pad all convolutions of a published network alike."
)
WIDTH = flags.DEFINE_float("width", 1.0, "Scale the channels.")
DEPTH = flags.DEFINE_float("depth", 1.0, "Scale the blocks of a stage.")
RESOLUTION = flags.DEFINE_float("resolution", 1.0, "Scale the resolution.")
SCALE_TO = flags.DEFINE_string("scale_to", "", 'Scale all three to FLOPs such as "1.2G".')
OUT = define_path("out", "", "Write the network to this JSON file.")


def main(argv: list[str]) -> int:
    """Prints one network; returns the exit code."""
    names = parse_flags(argv, flags.FLAGS, "the network")
    if len(names) != 1:
        raise ConfigError(f"name one network or candidate file, got {shown(names)}")
    (name,) = names
    arch = zoo.find(name, PLAIN.value)
    arch = scale(arch, width=WIDTH.value, depth=DEPTH.value, resolution=RESOLUTION.value)
    if SCALE_TO.value:
        arch = scale_to(arch, parse_quantity(SCALE_TO.value))
    if OUT.value:
        write(Path(OUT.value), arch)
    if JSON.value:
        costs = dataclasses.asdict(count(arch))
        print(json.dumps({"name": name, **costs, "arch": arch.to_dict()}, indent=1))
    else:
        print_arch(name, arch, plain_console())
    return 0


def write(path: Path, arch: ArchSpec) -> None:
    """Writes a network as JSON; raises `WorkdirError` if that is not possible."""
    try:
        path.write_text(json.dumps(arch.to_dict(), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise WorkdirError(f"`--out={path}` cannot be written: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(run_script(sys.argv, __doc__, main, answers=True))
