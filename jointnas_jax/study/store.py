"""The trials of a study, one JSON object per line in `trials.jsonl`, readable without JAX."""

import dataclasses
import json
from pathlib import Path
from typing import Any

FILE = "trials.jsonl"
COMPLETED, FAILED = "COMPLETED", "FAILED"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One evaluation of a candidate.

    Attributes:
      number: position in the study, from 0.
      stage: `coarse`, `random`, `final` (finalists and references with all seeds), all three with
        validation accuracy, or `retrain`, on the whole training split with test accuracy.
      round: of the coarse stage, from 1; None elsewhere.
      seed: which of the repeated trainings, from 0; None where there is one.
      knobs: value of every knob.
      costs: name -> integer cost.
      predicted: predicted score before the trial; None where nothing was predicted.
      epochs: epochs trained.
      accuracies: after each epoch, fractions in [0, 1].
      score: accuracy after the last epoch; None where the trial failed.
      status: `COMPLETED` or `FAILED`.
      reason: why it failed.
      seconds: wall time, compiling included.
    """

    number: int
    stage: str
    round: int | None
    seed: int | None
    knobs: dict[str, Any]
    costs: dict[str, int]
    predicted: float | None
    epochs: int
    accuracies: tuple[float, ...]
    score: float | None
    status: str
    reason: str | None
    seconds: float


class TrialStore:
    """Appends trials to a workdir and reads them back."""

    def __init__(self, workdir: Path):
        self._path = workdir / FILE

    def append(self, trial: Trial) -> None:
        """Writes one trial."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dataclasses.asdict(trial), allow_nan=False) + "\n")

    def load(self) -> list[Trial]:
        """Reads all trials, in the order in which they were written."""
        if not self._path.exists():
            return []
        lines = self._path.read_text(encoding="utf-8").splitlines()
        return [Trial(**json.loads(line)) for line in lines]
