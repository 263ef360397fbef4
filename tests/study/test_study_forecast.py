"""What a plan says of programs, operations, memory and time, beside numbers worked out by hand."""

import dataclasses
import io
import runpy
import types
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from envelopes import envelope_of_space
from rich.console import Console

from jointnas_jax.config import check_config
from jointnas_jax.execution.cost_model import Machine, Speed
from jointnas_jax.execution.forecast import Batch, forecast
from jointnas_jax.execution.hardware import make_planner
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import Evaluator
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count, inference_bytes, training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.space import JointSpace
from jointnas_jax.study import study_forecast as plans
from jointnas_jax.study.study_forecast import make_plan, study_batches

# Compiling: 100 s and nothing for a block. Training: a thousand million operations a second.
MACHINE = Machine(1e9, Speed(100.0, 0.0, 0.0), Speed(200.0, 0.0, 0.0))
OVERHEAD = 10
B = zoo.fbnetv3("b")


@pytest.fixture(scope="module")
def problem():
    return build_problem(check_config(tiny.get_config()))


def training(problem, **changes):
    train = dataclasses.replace(problem.config.train, batch_size=16, **changes)
    return dataclasses.replace(problem.config, train=train)


def gpus(number, memory=80e9):
    stats = lambda: {"bytes_limit": memory}
    return tuple(types.SimpleNamespace(platform="gpu", memory_stats=stats) for _ in range(number))


def look(config, space, devices, *batches, machine=MACHINE, **others):
    planner = make_planner(config, space, machine, ())
    planner._devices = len(devices)
    return forecast(config, machine, planner, devices, batches, **others)


def architectures(problem, number):
    vectors = problem.space.sample(np.random.default_rng(0), 500)
    return list(dict.fromkeys(problem.space.decode(v).arch for v in vectors))[:number]


def seconds_of(arch, steps, batch=16):
    return 6 * count(arch).macs * batch * steps / 1e9


def fixed(problem):
    return problem.space.with_fixed_arch(problem.default.arch), problem.default.arch


# -- one training --------------------------------------------------------------------------------


def test_on_cpu_one_candidate_trains_on_one_device_while_the_others_wait(problem):
    space, arch = fixed(problem)
    seen = look(training(problem), space, jax.devices()[:4], Batch([arch], 3, 160, final=True))
    assert (seen.programs, seen.devices) == (1, 4)
    assert seen.useful == seen.executed == 6 * count(arch).macs * 16 * 10 * 3
    assert seen.seconds == pytest.approx(OVERHEAD + 100 + seconds_of(arch, 30))
    assert seen.memory == training_bytes(arch, 16)
    assert seen.device_hours == 4 * seen.seconds / 3600


@pytest.mark.parametrize(("choice", "kind"), [("always", "cpu"), ("auto", "gpu")])
def test_where_devices_share_a_batch_each_has_its_part_of_memory_and_time(problem, choice, kind):
    space, arch = fixed(problem)
    devices = jax.devices()[:4] if kind == "cpu" else gpus(4)
    config = training(problem, data_parallel=choice)
    seen = look(config, space, devices, Batch([arch], 3, 160, final=True))
    assert seen.seconds == pytest.approx(OVERHEAD + 100 + seconds_of(arch, 30) / 4)
    assert seen.memory == training_bytes(arch, 4)


def test_a_teacher_takes_memory_and_operations_in_final_trainings_only(problem):
    space, arch = fixed(problem)
    config, devices = training(problem), jax.devices()[:1]
    alone, taught, search = (
        look(config, space, devices, Batch([arch], 1, 160, final), teacher=teacher)
        for final, teacher in ((True, None), (True, B), (False, B))
    )
    assert search == alone
    assert taught.memory - alone.memory == inference_bytes(B, 16) > 4 * count(B).params_total
    extra = 2 * count(B).macs * 160
    assert taught.useful - alone.useful == taught.executed - alone.executed == extra
    assert taught.seconds - alone.seconds == pytest.approx(extra / 1e9)


def test_images_on_the_device_add_to_its_memory(problem):
    space, arch = fixed(problem)
    sees = [
        look(training(problem), space, jax.devices()[:1], Batch([arch], 1, 160), resident=resident)
        for resident in (0, 12_345)
    ]
    assert sees[1].memory - sees[0].memory == 12_345


# -- many trainings ------------------------------------------------------------------------------


def test_exact_programs_are_compiled_once_each_by_a_worker_for_each_device(problem):
    archs = architectures(problem, 4)
    config = training(problem, program="exact")
    batch = Batch([*archs, archs[0]], 1, 160)
    seen = look(config, problem.space, jax.devices()[:2], batch, batch)
    assert (seen.envelopes, seen.exact, seen.programs) == (0, 4, 4)
    # The second time nothing is compiled: 4 x 100 s on two devices, once. The trainings are short.
    trained = sum(seconds_of(a, 10) for a in [*archs, archs[0]])
    assert OVERHEAD + 200 + trained <= seen.seconds <= OVERHEAD + 200 + 2 * trained
    assert seen.memory == max(training_bytes(a, 16) for a in archs)


def test_an_envelope_needs_the_memory_and_the_operations_of_its_largest_shapes(problem):
    whole = envelope_of_space(problem.space, problem.default.arch)
    needed = training_bytes(whole, 16)
    archs = [a for a in architectures(problem, 8) if training_bytes(a, 16) < needed]
    assert len(archs) == 7
    config = training(problem, program="envelope")
    planner = make_planner(config, problem.space, MACHINE, ())
    seen = look(config, problem.space, jax.devices()[:4], Batch(archs, 1, 160))
    assert seen.exact == 0
    assert seen.envelopes == 1
    assert seen.memory == needed
    assert seen.useful == sum(6 * count(a).macs * 160 for a in archs)
    assert seen.executed == sum(6 * planner.macs(whole, a) * 160 for a in archs) > seen.useful
    # Seven trainings on four devices: one after the slowest, one after the fifth.
    each = sorted((6 * planner.macs(whole, a) * 160 / 1e9 for a in archs), reverse=True)
    assert seen.seconds == pytest.approx(OVERHEAD + 200 + each[0] + each[4])


def test_lanes_multiply_the_memory_of_an_accelerator_and_fill_it_at_most(problem):
    archs = architectures(problem, 4)
    config = training(problem, program="envelope")
    whole = envelope_of_space(problem.space, archs[0])
    one = training_bytes(whole, 16)
    for memory, lanes in ((80e9, 4), (2.6 * one, 2), (one, 1)):
        seen = look(config, problem.space, gpus(1, memory), Batch(archs, 1, 160))
        assert seen.memory == lanes * one


def test_one_architecture_for_all_recipes_is_one_program(problem):
    space, arch = fixed(problem)
    seen = look(training(problem), space, jax.devices()[:4], *[Batch([arch] * 8, 1, 160)] * 3)
    assert seen.programs == 1
    assert seen.seconds == pytest.approx(OVERHEAD + 100 + 3 * 2 * seconds_of(arch, 10))


# -- a study -------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["auto", "envelope", "exact"])
@pytest.mark.parametrize("parallel", ["auto", "always"])
def test_programs_and_operations_are_those_that_the_evaluator_uses(
    problem, monkeypatch, program, parallel
):
    """The same trainings, counted before and watched while they run."""
    used, executed = {}, []

    def watch(self, shape, jobs, lanes, device, together, *_):
        used[shape, lanes, together, device is None] = shape
        executed.extend(
            6
            * self._planner.macs(shape, j.candidate.arch)
            * 16
            * j.epochs
            * self._steps[j.on_full_split]
            for j in jobs
        )
        return [TrainResult((0.5,) * job.epochs, None, None) for job in jobs]

    monkeypatch.setattr(Evaluator, "_train_lanes", watch)
    config = training(problem, program=program, data_parallel=parallel, lanes=2)
    own = dataclasses.replace(problem, config=config)
    pool = own.pool()
    split = problem.dataset.load("train[:96]")
    validation = np.arange(96) < 32
    batches = study_batches(own, pool, kept=64, images=96)
    worker = Evaluator(config, own.space, split, validation, split)
    monkeypatch.setattr(plans, "measured_speed_factors", lambda *_: worker.speed_factors)
    left = sum(len(batch.archs) for batch in batches)
    for batch in batches:
        left -= len(batch.archs)
        make = lambda arch, b=batch: Job(
            dataclasses.replace(own.default, arch=arch), jax.random.key(0), b.epochs, b.final
        )
        worker.run([make(arch) for arch in batch.archs], left)
    seen = plans.predict(config, own.dataset, own.space, batches)
    envelopes = sum(isinstance(shape, Envelope) for shape in used.values())
    assert (seen.envelopes, seen.exact) == (envelopes, len(used) - envelopes)
    assert seen.executed == pytest.approx(sum(executed))


def test_a_plan_counts_all_trainings_of_a_study(problem):
    pool = problem.pool()
    plan = make_plan(problem, pool, images=400)
    search, seeds = problem.config.search, problem.config.study.seeds
    coarse = search.rounds * search.per_round
    random = coarse + search.finalists
    final = (search.finalists + 1 + 2 + search.winners + 2) * seeds
    assert plan.trainings == coarse + random + final
    assert (plan.images, plan.validation) == (320, 80)
    # Ten steps of 32 an epoch in the search and for the finalists, twelve in the retraining.
    batches = study_batches(problem, pool, 320, 400)
    useful = sum(
        6 * count(arch).macs * 32 * (b.images // 32) * b.epochs for b in batches for arch in b.archs
    )
    assert plan.forecast.useful == useful
    assert {(b.images // 32, b.epochs) for b in batches} == {(10, 3), (12, 3)}


def test_the_first_round_is_planned_with_the_candidates_that_will_train(problem):
    pool = problem.pool()
    batches = study_batches(problem, pool, 320, 400)
    first = [problem.space.decode(v).arch for v in pool[: problem.config.search.per_round]]
    assert batches[0].archs == first


@pytest.mark.parametrize("images", [1, 100])
def test_a_plan_for_too_few_images_says_so(problem, images):
    config = training(problem)
    console = Console(record=True, width=200, file=io.StringIO())
    own = dataclasses.replace(problem, config=config)
    plan = make_plan(own, own.pool(), images + 1)
    plans.print_plan(own, plan, console)
    assert ("too few for a batch of 16" in console.export_text()) == (images == 1)
    assert plan.forecast.useful > 0


def test_a_pool_smaller_than_asked_for_is_said_in_words(problem, capsys):
    pool = problem.pool()
    for kept, said in ((len(pool), False), (20, True)):
        plan = make_plan(problem, pool[:kept], 400)
        plans.print_plan(problem, plan, Console(width=200))
        assert (
            "20 candidates within the budget of 32 asked for" in capsys.readouterr().out
        ) == said


def test_the_papers_search_compiles_a_program_for_each_architecture():
    """Padding networks of 450 M FLOPs for an hour each costs more than compiling them."""
    file = Path(__file__).parent.parent.parent / "configs" / "imagenet_joint.py"
    config = check_config(runpy.run_path(str(file))["get_config"]())
    space = JointSpace.from_config(config.space, 3, 200)
    archs = [space.decode(v).arch for v in space.sample(np.random.default_rng(0), 40)]
    archs = [arch for arch in archs if arch.resolution == 248]
    seen = look(config, space, gpus(2), Batch(archs, 150, 246_000))
    assert (seen.envelopes, seen.exact) == (0, len(archs))
    assert seen.useful == seen.executed
