"""Plays a study on a fleet that is not there: how long it takes on 1 to 4,096 devices, and why.

python scripts/simulate.py --config=configs/imagenet_joint.py --images=256116 --out=fleet.json
python scripts/simulate.py --workdir=runs/digits --devices=1,2,4,8 --preemptions_per_hour=0.1
python scripts/simulate.py --config=configs/digits.py --validate=1,2,4 --scaling=scaling.json

Trial times are those of the finished study in --workdir, or of the cost model that --dry_run goes
by. Candidates are asked for in rounds, as in the paper (sync); in rounds as wide as the fleet after
the first (wide); as results arrive after the first round (mixed), or at once (async). --validate
runs the study on so many CPU devices of this machine, which should do nothing else meanwhile, and
plays it from the times on one.

The report has a row for each number of `devices` and way of asking (`rounds`): `hours` of the study
and of the search (`search_hours`), `utilisation` (share of the time that devices train),
`compile_share` of what they do, `preemptions`, the `lost_device_hours` that these cost, the `delay`
by them, and how many results the search knew on average (`known`) and at least (`least_known`) when
it asked for a candidate after the first round. `gains` are over synchronous rounds.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from absl import flags

from jointnas_jax.command_line import (
    define_path,
    define_target,
    integers,
    parse_config,
    run_measurement,
)
from jointnas_jax.config import Config
from jointnas_jax.errors import ConfigError
from jointnas_jax.simulation.fleet import LARGEST, Fleet, parse_speeds, read_speeds
from jointnas_jax.simulation.workload import Workload

DEFAULT_CONFIG = Path(__file__).parent.parent / "configs" / "imagenet_joint.py"
_SIZES = [str(2**power) for power in range(13)]

WORKDIR = define_path("workdir", "", "Folder of a finished study, for its trial times.")
ONE_HOST = flags.DEFINE_bool(
    "one_host",
    False,
    "Trainings of an envelope wait for each other, as in one program of one host.",
)
IMAGES = flags.DEFINE_integer("images", 0, "Training images; 0: the config's dataset is opened.", 0)
CHANNELS = flags.DEFINE_integer("channels", 3, "Of an image, with --images.", 1, 4096)
CLASSES = flags.DEFINE_integer(
    "classes", 1000, "Of the dataset, with --images, where the config chooses none.", 2, 1_000_000
)
TARGET = define_target("Chip of the cost model, for a device of speed 1; default v5e.", "cpu")
STOP = flags.DEFINE_integer(
    "stop_epochs", 0, "Epochs that the early-stop rule leaves, in the cost model; 0: all.", 0
)
FIT = flags.DEFINE_float(
    "fit_seconds", 30.0, "Of the driver before each round or asking, in the cost model.", 0, 1e6
)
DEVICES = flags.DEFINE_list("devices", _SIZES, f"Sizes of the fleet, from 1 to {LARGEST}.")
SPEED = flags.DEFINE_list(
    "speed", ["1"], "Of a device; by number where devices share their cores: 1:1,2:0.8,4:0.4."
)
SCALING = define_path("scaling", "", "Speeds measured by benchmarks/scaling.py.")
for field in dataclasses.fields(Fleet):
    if field.name not in ("devices", "speed"):
        define: Any = flags.DEFINE_integer if field.type is int else flags.DEFINE_float
        define(field.name, field.default, field.metadata["doc"])
SEEDS = flags.DEFINE_integer("seeds", 5, "Plays of each fleet, over which times are averaged.", 1)
VALIDATE = flags.DEFINE_list("validate", [], "Run the study on so many CPU devices, and compare.")


def main(argv: list[str]) -> dict[str, Any]:
    """Simulates or validates; returns the report."""
    values = flags.FLAGS
    config = parse_config(argv, str(DEFAULT_CONFIG), values)
    names = {field.name for field in dataclasses.fields(Fleet)} - {"devices", "speed"}
    settings: dict[str, Any] = {name: values[name].value for name in names}
    fleet = Fleet(**settings)
    speeds = read_speeds(Path(SCALING.value)) if SCALING.value else parse_speeds(SPEED.value)
    sizes = integers("devices", DEVICES.value, low=1, high=LARGEST)
    if VALIDATE.value:
        counts = integers("validate", VALIDATE.value, low=1, high=LARGEST)
        if counts[0] != 1 or len(set(counts)) < 2:
            raise ConfigError(
                f"`--validate` must begin with 1 and go on, such as 1,2,4, got {counts}"
            )
        from jointnas_jax.simulation import validation

        report = validation.validate(config, counts, speeds)
        print(validation.table(report))
        return report
    from jointnas_jax.simulation.sweep import sentences, sweep, table

    report = sweep(_workload(config), fleet, sizes, speeds=speeds, seeds=SEEDS.value)
    print("\n".join([table(report), *sentences(report)]))
    return report


def _workload(config: Config) -> Workload:
    """What to play; these imports take seconds, and an error in a flag should not."""
    if WORKDIR.value:
        from jointnas_jax.simulation.recorded import recorded

        return recorded(Path(WORKDIR.value), ONE_HOST.value)
    from jointnas_jax.simulation.forecasted import Images, forecasted

    images = Images(IMAGES.value, CHANNELS.value, CLASSES.value) if IMAGES.value else None
    return forecasted(config, images, TARGET.value or "v5e", STOP.value, FIT.value)


def _draw(report: dict[str, Any], path: Path) -> Path | None:
    from jointnas_jax.report.simulation import draw

    return draw(report, path) if "scaling" in report else None


if __name__ == "__main__":
    sys.exit(run_measurement(__doc__, main, _draw))
