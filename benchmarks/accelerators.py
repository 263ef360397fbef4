"""What accelerators make of our programs, by their compilers, and by a clock where there is one.

python -m benchmarks.accelerators --target=v5e --out=v5e.json
python -m benchmarks.accelerators --target=h200 --cases=digits,digits_space --lanes=1,8,32
python -m benchmarks.accelerators --target=here --cases=digits --steps=50

Targets but `here` need no chip: programs are compiled for it (`benchmarks/absent.py`) and read
(`benchmarks/hlo.py`). The step of a TPU is the compiler's estimate. A GPU's compiler makes none:
the step is the larger of 2 microseconds for each kernel and of its traffic at the memory's speed, a
lower bound that we made up. `here` compiles for this machine's first device, and measures steps.

Cases: the default candidates of the configs alone (`digits`, `fashion`), in the envelope of their
whole spaces (`digits_space`, `fashion_space`), and FBNetV3-A and G (`fbnetv3_a`, `fbnetv3_g`), or A
up to its second stage (`fbnetv3_a_2`). With --merge rows that --out has already, of the same
versions, stay and are not measured again.
"""

import dataclasses
import functools
import json
import math
import runpy
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags

from benchmarks.absent import CLOCKS, absent_devices, compiler_versions
from benchmarks.hlo import Program
from jointnas_jax.command_line import integers, parse_flags, run_measurement, text_table
from jointnas_jax.config import TrainConfig, check_config
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.errors import ConfigError
from jointnas_jax.execution.cost_model import MAP_COPIES
from jointnas_jax.execution.packing import OPERATIONS_PER_MAC, Shape, executed_macs
from jointnas_jax.nets import zoo
from jointnas_jax.nets.conv import resolve_dtype
from jointnas_jax.nets.cost import count, training_bytes
from jointnas_jax.nets.envelope import Envelope, ranges_of
from jointnas_jax.runtime.chips import CHIPS, chip_of
from jointnas_jax.space import ArchSpec, Candidate, JointSpace, Recipe
from jointnas_jax.train.feed import EvalData, Feed, TrainData, pixel_stats
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram

CONFIGS = Path(__file__).parent.parent / "configs"
# A kernel's launch outside of a CUDA graph takes so long at least.
LAUNCH = 2e-6
# Architectures over which the useful share of an envelope is averaged.
_SAMPLE = 64
_LAYOUT = {
    "case": "{case}",
    "lanes": "{lanes}",
    "compile CPU s": "{compile_cpu_seconds:.0f}",
    "memory MB": "{memory_mb:.0f}",
    "planned": "{planned_mb:.0f}",
    "operations": "{operations:.0f}",
    "us a candidate-step": "{candidate_us:.0f}",
    "of peak": "{of_peak:.2%}",
    "useful": "{useful:.0%}",
    "measured us": "{measured_us:.0f}",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A training to compile.

    Attributes:
      shape: shape of the program.
      candidate: inside of it.
      sample: architectures of the space that the shape is for.
      train: how it trains.
      augmentation: of its images.
      images: number of training images, on the device; that such a network would stream them
        changes nothing in a step.
      side: height and width of a stored image.
    """

    shape: Shape
    candidate: Candidate
    sample: Sequence[ArchSpec]
    train: TrainConfig
    augmentation: Augmentation
    images: int
    side: int

    def feed(self) -> Feed:
        """Black images on the host; a dark one tells as much about time as a bright one."""
        arch = self.candidate.arch
        images = np.zeros((self.images, self.side, self.side, arch.image_channels), np.uint8)
        labels = (np.arange(self.images) % arch.num_classes).astype(np.int32)
        stats = pixel_stats(images[:1])
        members = np.ones(self.images, bool)
        data = TrainData(images=images, labels=labels, members=members, stats=stats)
        return Feed(data, EvalData.of(images[:256], labels[:256], stats))


def _of_config(name: str, images: int, whole_space: bool, **changes: Any) -> Case:
    config = check_config(runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]())
    space = JointSpace.from_config(config.space, 1, 10)
    candidate = space.decode(space.vector_from_values(config.default))
    shape: Shape = candidate.arch
    sample = [candidate.arch]
    if whole_space:
        ranges = ranges_of(space, candidate.arch)
        shape = Envelope.of(ranges, 1, 10)
        vectors = space.sample(np.random.default_rng(0), 50 * _SAMPLE)
        drawn = (space.decode(vector).arch for vector in vectors)
        sample = [arch for arch in drawn if shape.holds(arch)][:_SAMPLE]
    return Case(
        shape=shape,
        candidate=candidate,
        sample=sample,
        train=dataclasses.replace(config.train, **changes),
        augmentation=Augmentation(crop_padding=config.data.crop_padding, flip=config.data.flip),
        images=images,
        side=28 if name == "fashion_mnist" else 8,
    )


def _of_zoo(letter: str, stages: int = 0, **changes: Any) -> Case:
    arch = zoo.fbnetv3(letter)
    if stages:
        arch = dataclasses.replace(arch, stages=arch.stages[:stages])
    train = TrainConfig(batch_size=128, dtype="auto")
    return Case(
        shape=arch,
        candidate=Candidate(arch, Recipe()),
        sample=[arch],
        train=dataclasses.replace(train, **changes),
        augmentation=Augmentation(flip=True),
        images=4 * train.batch_size,
        side=arch.resolution,
    )


CASES: Mapping[str, Callable[..., Case]] = {
    "digits": functools.partial(_of_config, "digits", 1437, False),
    "digits_space": functools.partial(_of_config, "digits", 1437, True),
    "fashion": functools.partial(_of_config, "fashion_mnist", 6000, False),
    "fashion_space": functools.partial(_of_config, "fashion_mnist", 6000, True),
    "fbnetv3_a_2": functools.partial(_of_zoo, "a", 2),
    "fbnetv3_a": functools.partial(_of_zoo, "a"),
    "fbnetv3_g": functools.partial(_of_zoo, "g"),
}


def build(case: Case, devices: Sequence[jax.Device], lanes: int, **settings: Any) -> TrainProgram:
    """The programs of a case."""
    return TrainProgram(
        case.shape,
        case.train,
        augmentation=case.augmentation,
        devices=devices,
        lanes_per_device=lanes,
        **settings,
    )


def row_of(name: str, case: Case, target: str, lanes: int, steps: int = 0) -> dict[str, Any]:
    """Compiles a case for one device, and says what came out; measures `steps`, 0: none."""
    here = target == "here"
    devices = jax.local_devices()[:1] if here else absent_devices(target)[:1]
    chip = chip_of(devices[0].device_kind)
    feed = case.feed()
    if here:
        feed = Feed(replicate(feed.train, devices), replicate(feed.evaluation, devices))
    program = build(case, devices, lanes)
    wall, cpu = time.perf_counter(), time.process_time()
    programs = program.compile(case.candidate, feed)
    row: dict[str, Any] = {
        "case": name,
        "lanes": lanes,
        "batch": case.train.batch_size,
        "dtype": resolve_dtype(case.train.dtype, devices[0].platform),
        "compile_seconds": time.perf_counter() - wall,
        "compile_cpu_seconds": time.process_time() - cpu,
    }
    row |= _operations(case, lanes) | _of_epoch(programs["epoch"], case, lanes, devices[0])
    row["evaluate"] = _of_part(programs["evaluate"], devices[0], chip)
    row["plan"] = _of_part(programs["plan"], devices[0], chip)
    if "step_seconds" in row and chip:
        useful = row["operations_executed"] * row["useful"]
        row["of_peak"] = useful / row["step_seconds"] / CHIPS[chip].peak
        row["candidate_step_seconds"] = row["step_seconds"] / lanes
    if steps:
        row["measured_step_seconds"] = _measured(program, case, feed, steps)
        row["measured_candidate_step_seconds"] = row["measured_step_seconds"] / lanes
    return row


def _operations(case: Case, lanes: int) -> dict[str, float]:
    """Floating-point operations of a step, and which of them are of the candidates' networks."""
    batch = case.train.batch_size
    executed = [executed_macs(case.shape, arch, 0) for arch in case.sample]
    useful = [count(arch).macs for arch in case.sample]
    return {
        "operations_executed": lanes * batch * OPERATIONS_PER_MAC * float(np.mean(executed)),
        "useful": float(np.mean(useful) / np.mean(executed)),
    }


def _of_epoch(program: Any, case: Case, lanes: int, device: jax.Device) -> dict[str, Any]:
    """Memory without resident images, and a step."""
    if isinstance(program, tuple):  # of a CPU: executables, and shapes
        return {}
    seen = program.memory_analysis()
    arch, value = case.candidate.arch, np.dtype(resolve_dtype(case.train.dtype, device.platform))
    resident = case.images * case.side**2 * arch.image_channels
    memory = seen.argument_size_in_bytes + seen.temp_size_in_bytes
    memory += seen.output_size_in_bytes - seen.alias_size_in_bytes - resident
    copies = MAP_COPIES[device.platform]
    planned = lanes * training_bytes(case.shape, case.train.batch_size, value.itemsize, copies)
    row = {"memory": memory, "temporary": seen.temp_size_in_bytes, "planned_memory": planned}
    return row | _times(Program(program.as_text(), device.platform).step, device)


def _of_part(program: Any, device: jax.Device, chip: str | None) -> dict[str, Any]:
    if isinstance(program, tuple):
        return {}
    return _times(Program(program.as_text(), device.platform).whole, device)


def _times(cost: Any, device: jax.Device) -> dict[str, Any]:
    """Operations and seconds; see the module."""
    row = {
        "operations": cost.operations,
        "library_calls": cost.calls,
        "unpriced": cost.unpriced,
        "traffic": cost.traffic,
    }
    name = chip_of(device.device_kind)
    if name is None:
        return row
    if device.platform == "tpu":
        return row | {"step_seconds": cost.cycles / CLOCKS[name]}
    return row | {
        "step_seconds": max(cost.operations * LAUNCH, cost.traffic / CHIPS[name].bandwidth)
    }


def _measured(program: TrainProgram, case: Case, feed: Feed, steps: int) -> float:
    """Seconds of a step of all lanes: whole epochs after the first, measuring left out."""
    per_epoch = case.images // case.train.batch_size
    epochs = 1 + max(1, math.ceil(steps / per_epoch))
    ends: list[float] = []
    program.train(
        [case.candidate] * program.lanes,
        [jax.random.key(lane) for lane in range(program.lanes)],
        feed,
        epochs=epochs,
        every_epoch=False,
        progress=lambda *_: ends.append(time.perf_counter()),
    )
    # The last epoch ends with the evaluation, so the one before ends the measurement where it can.
    last = -2 if epochs > 2 else -1
    return (ends[last] - ends[0]) / (len(ends) + last) / per_epoch


def main(argv: list[str]) -> dict[str, Any]:
    """Compiles, and measures where it can; returns the report."""
    values = flags.FLAGS
    parse_flags(argv, values)
    if unknown := set(values.cases) - set(CASES):
        raise ConfigError(f"`--cases` must be of {[*CASES]}, got {sorted(unknown)}")
    lanes_of_cases = integers("lanes", values.lanes, low=1, high=4096)
    target = values.target
    platform = jax.local_devices()[0].platform if target == "here" else CHIPS[target].platform
    report: dict[str, Any] = {"target": target, "versions": compiler_versions(platform)}
    if target == "here":
        report["device"] = jax.local_devices()[0].device_kind
    known = _known(Path(values.out), report) if values.merge and values.out else []
    rows = list(known)
    changes = {"dtype": values.dtype} if values.dtype else {}
    for name in values.cases:
        for lanes in lanes_of_cases:
            case = CASES[name](**changes)
            if lanes > 1 and not isinstance(case.shape, Envelope):
                continue
            label = f"{name}_{values.dtype}" if values.dtype else name
            if any((row["case"], row["lanes"]) == (label, lanes) for row in known):
                continue
            rows.append(row_of(label, case, target, lanes, values.steps if target == "here" else 0))
            print(text_table([_readable(rows[-1])], _LAYOUT), flush=True)
    print(text_table([_readable(row) for row in rows], _LAYOUT))
    return report | {"rows": rows}


def _known(path: Path, report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of an earlier report of the same target and versions."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    same = all(earlier.get(name) == report[name] for name in report)
    return earlier["rows"] if same else []


def _readable(row: Mapping[str, Any]) -> dict[str, Any]:
    scaled = {
        "memory_mb": ("memory", 1e-6),
        "planned_mb": ("planned_memory", 1e-6),
        "candidate_us": ("candidate_step_seconds", 1e6),
        "measured_us": ("measured_candidate_step_seconds", 1e6),
    }
    more = {name: row[key] * by if key in row else None for name, (key, by) in scaled.items()}
    return {"operations": None, "of_peak": None, **row, **more}


if __name__ == "__main__":
    flags.DEFINE_enum("target", "v5e", [*CHIPS, "here"], "Chip to compile for.")
    flags.DEFINE_list("cases", ["digits", "digits_space"], f"Of {', '.join(CASES)}.")
    flags.DEFINE_list("lanes", ["1"], "Candidates at once, in the envelopes.")
    flags.DEFINE_string("dtype", "", "Of feature maps, instead of the config's.")
    flags.DEFINE_integer("steps", 50, "Steps to measure at least, on this machine.", 1)
    flags.DEFINE_bool("merge", False, "Keep the rows of --out.")
    sys.exit(run_measurement(__doc__, main))
