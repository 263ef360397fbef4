"""The workload of a study that ran, from its store and its result."""

import collections
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jointnas_jax.errors import WorkdirError
from jointnas_jax.files import read_json
from jointnas_jax.nets.cost import training_bytes
from jointnas_jax.problem.problem import Problem, restore_problem
from jointnas_jax.simulation.fleet import Fleet
from jointnas_jax.simulation.player import play
from jointnas_jax.simulation.workload import Phase, Training, Workload
from jointnas_jax.space import ArchSpec, read_arch
from jointnas_jax.storage.provenance import Provenance
from jointnas_jax.storage.study_reader import stored_trials
from jointnas_jax.storage.trial_store import Trial
from jointnas_jax.storage.workdir import RESULT, stored_config

# Bytes of a value of a feature map; studies in bfloat16 need half of what is said.
_VALUE_BYTES = 4
# Names in `seconds` of `result.json`: of a stage with trainings, of what comes before the first one
# and between the coarse stage and the next.
_STAGES = {
    "coarse": "coarse stage",
    "random": "random search",
    "validate": "finalists",
    "retrain": "retraining",
}
_BEFORE, _BETWEEN = ("data", "pool", "pretraining"), "fine stage"


def recorded(workdir: Path, one_host: bool = False) -> Workload:
    """Reads the workload of a finished study; `one_host` as in `Workload`.

    What a stage took besides its trainings is the driver's. Times are surest of a study on one
    device: a trial's seconds, compiling included, are wall time shared out among those that trained
    side by side, and the idle ends of such a group look like training.

    Raises:
      WorkdirError: the workdir holds no finished study.
      DamagedError: what is stored of it is not what was written.
    """
    config = stored_config(workdir)
    if not (workdir / RESULT).exists():
        raise WorkdirError(f"workdir `{workdir}` holds no finished study: it has no `{RESULT}`")
    seconds = read_json(workdir / RESULT)["seconds"]
    devices = int(Provenance.read(workdir).machine["devices"])
    problem = restore_problem(config, read_arch(workdir / "winner0.json"))
    stages: dict[tuple[str, int | None], list[Trial]] = collections.defaultdict(list)
    for trial in stored_trials(workdir):
        stages[trial.stage, trial.round].append(trial)
    programs: dict[ArchSpec, str] = {}
    phases = []
    for (stage, number), trials in stages.items():
        trainings = tuple(_trainings(problem, trials, devices=devices, programs=programs))
        name = f"round {number}" if number else stage
        phases.append((stage, Phase(name, 0.0, trainings, coarse=stage == "coarse")))
    driven = _driven(phases, seconds, devices)
    everything = {t.number: t for trials in stages.values() for t in trials}
    epochs = {
        n: max(1, t.epochs - (everything[t.resumed].epochs if t.resumed is not None else 0))
        for n, t in everything.items()
    }
    macs = {n: t.costs["macs"] * epochs[n] for n, t in everything.items()}
    source = f"trial times of `{workdir}` on {devices} devices"
    return Workload(config.name, source, tuple(_compiling_apart([*driven], macs)), one_host)


def _driven(
    phases: Sequence[tuple[str, Phase]], seconds: dict[str, Any], devices: int
) -> Iterator[Phase]:
    """Adds what the driver does before each phase, by the wall time of its stage."""
    alone: dict[str, list[float]] = collections.defaultdict(list)
    for stage, phase in phases:
        there = Workload("", "", (phase,), one_host=True)
        alone[stage].append(play(there, Fleet(devices)).seconds)
    before = sum(seconds.get(name, 0.0) for name in _BEFORE)
    earlier = "coarse"
    for stage, phase in phases:
        rest = seconds.get(_STAGES[stage], 0.0) - sum(alone[stage])
        before += max(0.0, rest) / len(alone[stage])
        if stage != earlier == "coarse":
            before += seconds.get(_BETWEEN, 0.0)
        yield phase._replace(before=before)
        before, earlier = 0.0, stage


def _compiling_apart(phases: Sequence[Phase], macs: dict[int, int]) -> Iterator[Phase]:
    """Takes the time of compiling out of the training that waited for it.

    A program's first training takes longer for its multiply-adds than others. Where no other is in
    the program, those of the same kind show what it would have taken.
    """
    pace = lambda t: t.seconds / macs[t.number]
    by_program: dict[str, list[Training]] = collections.defaultdict(list)
    for training in (t for phase in phases for t in phase.trainings):
        by_program[training.program].append(training)
    firsts = {name: max(same, key=pace) for name, same in by_program.items()}
    others = {
        name: [pace(t) for t in same if t != firsts[name]] for name, same in by_program.items()
    }
    kinds: dict[bool, list[float]] = collections.defaultdict(list)
    for name, paces in others.items():
        kinds[firsts[name].envelope] += paces
    compiling = {}
    for name, first in firsts.items():
        paces = others[name] or kinds[first.envelope] or [pace(first)]
        usual = statistics.median(paces)
        compiling[name] = max(0.0, first.seconds - usual * macs[first.number])

    def apart(training: Training) -> Training:
        waited = compiling[training.program]
        rest = training.seconds - waited * (training == firsts[training.program])
        return training._replace(epoch_seconds=rest / training.epochs, compile_seconds=waited)

    for phase in phases:
        yield phase._replace(trainings=tuple(map(apart, phase.trainings)))


def _trainings(
    problem: Problem, trials: Sequence[Trial], *, devices: int, programs: dict[ArchSpec, str]
) -> Iterator[Training]:
    """The trainings of a phase; new architectures get a program of their own."""
    vectors = [problem.space.vector_from_values(trial.knobs) for trial in trials]
    archs = [problem.space.decode(vector).arch for vector in vectors]
    names = [
        programs.setdefault(arch, f"exact {len(programs)}") if trial.pack == "exact" else trial.pack
        for arch, trial in zip(archs, trials, strict=True)
    ]
    sizes = collections.Counter(names)
    exact = len({n for n, t in zip(names, trials, strict=True) if t.pack == "exact"})
    for trial, arch, name in zip(trials, archs, names, strict=True):
        envelope = trial.pack != "exact"
        together = min(devices, sizes[name]) if envelope or exact < devices else 1
        epochs = max(1, trial.epochs)
        yield Training(
            number=trial.number,
            program=name,
            epoch_seconds=trial.seconds * together / epochs,
            epochs=epochs,
            memory=training_bytes(arch, problem.config.train.batch_size, _VALUE_BYTES),
            envelope=envelope,
        )
