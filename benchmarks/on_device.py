"""What one accelerator does with our programs, by a clock, in at most eight minutes.

python -m benchmarks.on_device --out=device.json
JAX_PLATFORMS=cpu python -m benchmarks.on_device --parts=correct,lanes --lanes=1,2 --steps=2

Each part runs in a process of its own, while there is time; --out has what was measured so far.

- `correct`: candidates of the digits config train on the CPU and on the accelerator, alone and in
  lanes of their envelope, from the same seeds; differences of accuracy and of weights.
- `exact`: steps of the default candidates of digits and Fashion-MNIST in programs of their own.
- `lanes`: steps in the envelopes of their spaces, for each number of --lanes.
- `population`: the same candidates by the programs of a study, by one `jit` for each, and by
  PyTorch where it is installed (`benchmarks/population.py`).
- `fbnetv3_a`: steps of FBNetV3-A at 224 pixels, batch 128, bfloat16.

Rows are as of `benchmarks/accelerators.py --target=here`: the compiler's estimates are beside what
was measured, in seconds.
"""

import dataclasses
import importlib.util
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from jointnas_jax.command_line import integers, parse_flags, run_measurement
from jointnas_jax.errors import ConfigError, StudyError
from jointnas_jax.files import write_json
from jointnas_jax.runtime.processes import in_a_process

PARTS = ("correct", "exact", "lanes", "population", "fbnetv3_a")
_SPACES = ("digits_space", "fashion_space")
# Steps of the population's trainings.
_STEPS = 60


def row(name: str, lanes: int, steps: int) -> dict[str, Any]:
    """A row of `benchmarks/accelerators.py` for the first device of this process."""
    from benchmarks.accelerators import CASES, row_of

    return row_of(name, CASES[name](), "here", lanes, steps)


def correct(candidates: int, epochs: int) -> dict[str, Any]:
    """Trains candidates on the CPU and on the accelerator of this process.

    Returns:
      Accuracies after each epoch, `[candidates][epochs]`, on the `cpu`, `alone` on the accelerator
      and in `lanes` there; and of both of these the largest differences of accuracies, and of
      weights as a share of their norm.
    """
    import jax
    import numpy as np
    from sklearn.datasets import load_digits

    from benchmarks.accelerators import CASES, build
    from jointnas_jax.data.source import Split
    from jointnas_jax.train.feed import feeds

    digits = load_digits()
    images = (digits.images * 15).astype(np.uint8)[..., None]
    split = Split(images, digits.target.astype(np.int32))
    held = np.arange(len(images)) % 5 == 0
    cpu, here = jax.devices("cpu")[:1], jax.local_devices()[:1]
    space, alone = CASES["digits_space"](), CASES["digits"]()
    some = [dataclasses.replace(space.candidate, arch=a) for a in space.sample[:candidates]]
    keys = [jax.random.key(seed) for seed in range(candidates)]

    def train(devices: Sequence[jax.Device], lanes: int) -> list[Any]:
        feed = feeds(split, held, split, devices=devices)[False]
        if lanes > 1:
            return build(space, devices, lanes).train(some, keys, feed, epochs=epochs)
        trained = []
        for candidate, key in zip(some, keys, strict=True):
            case = dataclasses.replace(alone, shape=candidate.arch, candidate=candidate)
            program = build(case, devices, 1)
            trained += program.train([candidate], [key], feed, epochs=epochs)
        return trained

    trained = {"cpu": train(cpu, 1), "alone": train(here, 1), "lanes": train(here, candidates)}
    vectors = {
        name: [np.concatenate([np.ravel(v) for v in jax.tree.leaves(t.variables)]) for t in some]
        for name, some in trained.items()
    }
    report: dict[str, Any] = {n: [t.accuracies for t in some] for n, some in trained.items()}
    for name in ("alone", "lanes"):
        accuracies = np.subtract(report[name], report["cpu"])
        pairs = zip(vectors[name], vectors["cpu"], strict=True)
        apart = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
        report[f"{name}_accuracy_difference"] = float(np.abs(accuracies).max())
        report[f"{name}_weight_difference"] = max(apart)
    return report


def main(argv: list[str]) -> dict[str, Any]:
    """Runs the parts; returns the report."""
    values = flags.FLAGS
    parse_flags(argv, values)
    if unknown := set(values.parts) - set(PARTS):
        raise ConfigError(f"`--parts` must be of {[*PARTS]}, got {sorted(unknown)}")
    lanes = integers("lanes", values.lanes, low=1, high=4096)
    steps, end = values.steps, time.monotonic() + 60 * values.minutes
    report: dict[str, Any] = {"parts": {}, "left_out": []}
    for part in values.parts:
        found: list[Any] = []
        report["parts"][part] = found
        for name, call in _calls(part, lanes, steps, values):
            if time.monotonic() > end:
                report["left_out"].append(name)
                continue
            start = time.monotonic()
            try:
                result = call()
            except StudyError as error:  # one part says nothing about the others
                result = {"error": str(error)}
            found.append({"name": name, "wall_seconds": time.monotonic() - start} | result)
            print(f"  {name}: {_words(result)}", flush=True)
            if values.out:
                write_json(Path(values.out), report)
    return report


def _calls(
    part: str, lanes: Sequence[int], steps: int, values: Any
) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """The measurements of a part, with their names."""
    here, candidates = "benchmarks.on_device", values.candidates

    def measured(case: str, number: int) -> tuple[str, Callable[[], dict[str, Any]]]:
        return f"{case}, {number} lanes", lambda: in_a_process(f"{here}:row", case, number, steps)

    if part == "correct":
        return [(part, lambda: in_a_process(f"{here}:correct", candidates, values.epochs))]
    if part == "exact":
        return [measured("digits", 1), measured("fashion", 1)]
    if part == "lanes":
        return [measured(case, number) for case in _SPACES for number in lanes]
    if part == "fbnetv3_a":
        return [measured("fbnetv3_a", 1)]
    names = ["program", "jit"] + ["torch"] * bool(importlib.util.find_spec("torch"))
    return [("population", lambda: _population(candidates, names))]


def _population(candidates: int, names: Sequence[str]) -> dict[str, Any]:
    from benchmarks.population import Task, compare

    return compare(Task(candidates=candidates, steps=_STEPS), names)


def _words(result: dict[str, Any]) -> str:
    """A result in a line."""
    if "error" in result:
        return str(result["error"])
    if "measured_candidate_step_seconds" in result:
        estimate = result.get("candidate_step_seconds")
        shown = f", estimated {1e6 * estimate:.0f}" if estimate else ""
        return f"{1e6 * result['measured_candidate_step_seconds']:.0f} us a candidate-step{shown}"
    if "cpu" in result:
        names = ("alone", "lanes")
        apart = [f"{name} {100 * result[f'{name}_accuracy_difference']:.1f}" for name in names]
        return f"accuracy off by points: {', '.join(apart)}"
    return ", ".join(f"{name} {r['seconds']:.1f} s" for name, r in result.items())


if __name__ == "__main__":
    flags.DEFINE_list("parts", [*PARTS], f"Of {', '.join(PARTS)}, in this order.")
    flags.DEFINE_list("lanes", [str(2**power) for power in range(7)], "Candidates at once.")
    flags.DEFINE_integer("steps", 200, "Steps to measure of each program.", 1)
    flags.DEFINE_integer("epochs", 5, "Of the trainings that are compared.", 1)
    flags.DEFINE_integer("candidates", 8, "That are compared; at least 2.", 2)
    flags.DEFINE_float("minutes", 8, "After which no measurement begins.", 0)
    sys.exit(run_measurement(__doc__, main))
