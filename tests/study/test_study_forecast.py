"""Programs, operations, memory and time of a forecast, beside numbers worked out by hand."""

import dataclasses
import io
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from envelopes import envelope_of_space
from rich.console import Console

from jointnas_jax.config import check_config
from jointnas_jax.execution.cost_model import CostModel, Speed
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job, TrainResult
from jointnas_jax.execution.local import LocalExecutor
from jointnas_jax.execution.packing import executed_macs
from jointnas_jax.execution.schedule import Estimate
from jointnas_jax.nets import zoo
from jointnas_jax.nets.cost import count, inference_bytes, training_bytes
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.problem.problem import build_problem
from jointnas_jax.space import JointSpace
from jointnas_jax.study.study_forecast import (
    estimate_lines,
    forecast,
    forecast_study,
    print_forecast,
    stand_in_batches,
)

# Compiling: 100 s and nothing for a block. Training: a thousand million operations a second.
COST_MODEL = CostModel(1e9, Speed(100.0, 0.0, 0.0), Speed(200.0, 0.0, 0.0))
B = zoo.fbnetv3("b")


@pytest.fixture(scope="module")
def problem():
    return build_problem(check_config(tiny.get_config()))


def training(problem, **changes):
    train = dataclasses.replace(problem.config.train, batch_size=16, **changes)
    return dataclasses.replace(problem.config, train=train)


def cpus(devices, **changes):
    hardware = Hardware(
        platform="cpu",
        devices=devices,
        workers=1,
        memory=0,
        taken=0,
        speed_factors=(1.0, 1.0),
        dtype="float32",
        lowering="matmul",
    )
    return dataclasses.replace(hardware, **changes)


def gpus(devices, memory=80e9):
    return cpus(devices, platform="gpu", memory=memory)


def jobs(problem, archs, epochs, on_full_split=False):
    key, candidate = jax.random.key(0), problem.default
    some = [dataclasses.replace(candidate, arch=arch) for arch in archs]
    return [Job(candidate, key, epochs, on_full_split) for candidate in some]


def look(config, space, hardware, *batches, steps=10, **more):
    more = {"steps": dict.fromkeys((False, True), steps), "cost_model": COST_MODEL} | more
    return sum(forecast(config, space, hardware, batches, **more), Estimate())


def architectures(problem, number):
    vectors = problem.space.sample(np.random.default_rng(0), 500)
    return list(dict.fromkeys(problem.space.decode(v).arch for v in vectors))[:number]


def seconds_of(arch, steps, batch=16):
    return 6 * count(arch).macs * batch * steps / 1e9


def seconds(seen):
    return seen.compiling + seen.training


def fixed(problem):
    return problem.space.with_fixed_arch(problem.default.arch), problem.default.arch


# -- one training --------------------------------------------------------------------------------


def test_on_cpu_one_candidate_trains_on_one_device_while_the_others_wait(problem):
    space, arch = fixed(problem)
    seen = look(training(problem), space, cpus(4), jobs(problem, [arch], 3, on_full_split=True))
    assert (seen.envelopes, seen.exact) == (0, 1)
    assert seen.useful == seen.executed == 6 * count(arch).macs * 16 * 10 * 3
    assert seconds(seen) == pytest.approx(100 + seconds_of(arch, 30))
    assert seen.memory == training_bytes(arch, 16)
    shown = f"{(seconds(seen) + 10) / 60:.1f} minutes on 4 devices"  # 10 s besides
    assert estimate_lines([seen], 4)["estimated time"].startswith(shown)


@pytest.mark.parametrize(("choice", "kind"), [("always", "cpu"), ("auto", "gpu")])
def test_where_devices_share_a_batch_each_has_its_part_of_memory_and_time(problem, choice, kind):
    space, arch = fixed(problem)
    hardware = cpus(4) if kind == "cpu" else gpus(4)
    config = training(problem, data_parallel=choice)
    seen = look(config, space, hardware, jobs(problem, [arch], 3, on_full_split=True))
    assert seconds(seen) == pytest.approx(100 + seconds_of(arch, 30) / 4)
    assert seen.memory == hardware.training_bytes(arch, 4)


def test_a_teacher_takes_memory_and_operations_on_the_full_split_only(problem):
    space, arch = fixed(problem)
    alone, taught, search = (
        look(training(problem), space, cpus(1), jobs(problem, [arch], 1, full), teacher=teacher)
        for full, teacher in ((True, None), (True, B), (False, B))
    )
    assert search == alone
    assert taught.memory - alone.memory == inference_bytes(B, 16) > 4 * count(B).params_total
    extra = 2 * count(B).macs * 160
    assert taught.useful - alone.useful == taught.executed - alone.executed == extra
    assert seconds(taught) - seconds(alone) == pytest.approx(extra / 1e9)


def test_images_on_the_device_add_to_its_memory(problem):
    space, arch = fixed(problem)
    sees = [
        look(training(problem), space, cpus(1, taken=resident), jobs(problem, [arch], 1))
        for resident in (0, 12_345)
    ]
    assert sees[1].memory - sees[0].memory == 12_345


# -- many trainings ------------------------------------------------------------------------------


def test_exact_programs_are_compiled_once_each_by_a_worker_for_each_device(problem):
    archs = architectures(problem, 4)
    config = training(problem, program="exact")
    batch = jobs(problem, [*archs, archs[0]], 1)
    seen = look(config, problem.space, cpus(2), batch, batch)
    assert (seen.envelopes, seen.exact) == (0, 4)
    # The second time nothing is compiled: 4 x 100 s on two devices, once. The trainings are short.
    trained = sum(seconds_of(a, 10) for a in [*archs, archs[0]])
    assert 200 + trained <= seconds(seen) <= 200 + 2 * trained
    assert seen.memory == max(training_bytes(a, 16) for a in archs)


def test_an_envelope_needs_the_memory_and_the_operations_of_its_largest_shapes(problem):
    whole = envelope_of_space(problem.space, problem.default.arch)
    needed = training_bytes(whole, 16)
    archs = [a for a in architectures(problem, 8) if training_bytes(a, 16) < needed]
    assert len(archs) == 7
    config = training(problem, program="envelope")
    executed = [executed_macs(whole, arch, 16) for arch in archs]
    seen = look(config, problem.space, cpus(4), jobs(problem, archs, 1))
    assert seen.exact == 0
    assert seen.envelopes == 1
    assert seen.memory == needed
    assert seen.useful == sum(6 * count(a).macs * 160 for a in archs)
    assert seen.executed == sum(6 * macs * 160 for macs in executed) > seen.useful
    # Seven trainings on four devices: one after the slowest, one after the fifth.
    each = sorted((6 * macs * 160 / 1e9 for macs in executed), reverse=True)
    assert seconds(seen) == pytest.approx(200 + each[0] + each[4])


def test_lanes_multiply_the_memory_of_an_accelerator_and_fill_it_at_most(problem):
    archs = architectures(problem, 4)
    config = training(problem, program="envelope")
    whole = envelope_of_space(problem.space, archs[0])
    one = gpus(1).training_bytes(whole, 16)
    for memory, lanes in ((80e9, 4), (2.6 * one, 2), (one, 1)):
        seen = look(config, problem.space, gpus(1, memory), jobs(problem, archs, 1))
        assert seen.memory == lanes * one


def test_one_architecture_for_all_recipes_is_one_program(problem):
    space, arch = fixed(problem)
    seen = look(training(problem), space, cpus(4), *[jobs(problem, [arch] * 8, 1)] * 3)
    assert (seen.envelopes, seen.exact) == (0, 1)
    assert seconds(seen) == pytest.approx(100 + 3 * 2 * seconds_of(arch, 10))


# -- a study -------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["auto", "envelope", "exact"])
@pytest.mark.parametrize("parallel", ["auto", "always"])
def test_programs_and_operations_are_those_that_the_executor_uses(problem, program, parallel):
    """The same trainings, counted before and watched while they run."""
    used, executed = {}, []

    def watch(assignment, some, stop):
        shape, device = assignment.shape, assignment.device
        used[shape, assignment.lanes, assignment.layout, device is None] = shape
        scheduler = executor.scheduler
        executed.extend(
            6 * scheduler.packer.macs(shape, job.candidate.arch) * 16 * scheduler.steps(job)
            for job in some
        )
        return [TrainResult((0.5,) * job.epochs, None, None) for job in some]

    config = training(problem, program=program, data_parallel=parallel, lanes=2)
    pool = dataclasses.replace(problem, config=config).pool()
    split = problem.dataset.load("train[:96]")
    images = (split, np.arange(96) < 32, split)
    executor = LocalExecutor(config, problem.space, images, train_fn=watch)
    batches = [batch.jobs for batch in stand_in_batches(problem, pool)]
    left = sum(map(len, batches))
    for batch in batches:
        left -= len(batch)
        executor.run(batch, later=left)
    more = {"steps": {False: 64 // 16, True: 96 // 16}, "cost_model": None}
    seen = sum(forecast(config, problem.space, executor.hardware, batches, **more), Estimate())
    envelopes = sum(isinstance(shape, Envelope) for shape in used.values())
    assert (seen.envelopes, seen.exact) == (envelopes, len(used) - envelopes)
    assert seen.executed == pytest.approx(sum(executed))


def test_a_forecast_counts_all_trainings_of_a_study(problem):
    pool = problem.pool()
    seen = forecast_study(problem, pool, images=400)
    search, seeds = problem.config.search, problem.config.study.seeds
    coarse = search.rounds * search.per_round
    random = coarse + search.finalists
    longer = (search.finalists + 1 + 2 + search.winners + 2) * seeds
    longer -= 3  # best, random and default candidate were trained once
    assert seen.trainings == coarse + random + longer
    assert (seen.images, seen.validation) == (320, 80)
    # Ten steps of 32 an epoch without the images for validation, twelve with them.
    each = [job for batch in stand_in_batches(problem, pool) for job in batch.jobs]
    steps = [(12 if job.on_full_split else 10) * job.epochs for job in each]
    macs = [count(job.candidate.arch).macs for job in each]
    assert sum(seen.estimates, Estimate()).useful == 6 * 32 * np.dot(macs, steps)
    assert {(job.epochs, job.on_full_split) for job in each} == {(3, False), (3, True)}


def test_a_forecast_for_a_chip_that_is_not_there_says_so(problem):
    pool = problem.pool()
    here, there = (forecast_study(problem, pool, 400, target=name) for name in ("", "v5e"))
    assert here.machine.endswith("cpu, timed for a second")
    assert there.machine.startswith("1 x v5e, by libtpu")
    assert there.machine.endswith("never timed")
    total = sum(there.estimates, Estimate())
    assert total.useful == sum(here.estimates, Estimate()).useful
    assert 0 < total.training < total.compiling  # so small networks are bound by that
    console = Console(record=True, width=300, file=io.StringIO())
    print_forecast(problem, there, console)
    assert there.machine in console.export_text()


def test_the_first_round_is_forecast_with_the_candidates_that_will_train(problem):
    pool = problem.pool()
    first = [problem.space.decode(v) for v in pool[: problem.config.search.per_round]]
    assert [job.candidate for job in stand_in_batches(problem, pool)[0].jobs] == first


@pytest.mark.parametrize("images", [1, 100])
def test_a_forecast_for_too_few_images_says_so(problem, images):
    config = training(problem)
    console = Console(record=True, width=200, file=io.StringIO())
    own = dataclasses.replace(problem, config=config)
    seen = forecast_study(own, own.pool(), images + 1)
    print_forecast(own, seen, console)
    assert ("too few for a batch of 16" in console.export_text()) == (images == 1)
    assert all(estimate.useful > 0 for estimate in seen.estimates)


def test_a_pool_smaller_than_asked_for_is_said_in_words(problem, capsys):
    pool = problem.pool()
    for kept, said in ((len(pool), False), (20, True)):
        print_forecast(problem, forecast_study(problem, pool[:kept], 400), Console(width=200))
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
    candidate = space.decode(space.vector_from_values(config.default))
    some = [dataclasses.replace(candidate, arch=arch) for arch in archs]
    batch = [Job(each, jax.random.key(0), 150) for each in some]
    seen = look(config, space, gpus(2), batch, steps=246_000 // 16)
    assert (seen.envelopes, seen.exact) == (0, len(archs))
    assert seen.useful == seen.executed
