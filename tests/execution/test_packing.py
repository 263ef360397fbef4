"""The planner divides the space, not only the candidates at hand."""

import dataclasses
import runpy
from pathlib import Path

import numpy as np
import pytest
from envelopes import envelope_of_space

from jointnas_jax.execution.cost_model import ACCELERATOR, CPU
from jointnas_jax.execution.packing import Planner, Work, executed_macs, frame
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.rules import parse_quantity
from jointnas_jax.space import ArchSpec, JointSpace

CONFIGS = Path(__file__).parents[2] / "configs"


def works(space, count=48, steps=300, seed=0):
    vectors = space.sample(np.random.default_rng(seed), count)
    return [Work(space.decode(v).arch, steps) for v in vectors]


def planner(space, program="auto", tiled=True, machine=CPU):
    return Planner(space, machine, devices=2, batch=64, tiled=tiled, program=program)


def test_every_training_is_in_one_pack_that_holds_it(tiny_space):
    jobs = works(tiny_space)
    packs = planner(tiny_space).plan(jobs, later=100)
    assert sorted(i for pack in packs for i in pack.members) == list(range(len(jobs)))
    for pack in packs:
        for i in pack.members:
            if isinstance(pack.shape, Envelope):
                assert pack.shape.holds(jobs[i].arch)
            else:
                assert pack.shape == jobs[i].arch


@pytest.mark.parametrize("tiled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_later_rounds_need_no_other_envelope(paper_space, tiled):
    plan = planner(paper_space, "envelope", tiled)
    first = {pack.shape for pack in plan.plan(works(paper_space, 100))}
    assert all(isinstance(shape, Envelope) for shape in first)
    again = {pack.shape for pack in plan.plan(works(paper_space, 100, seed=1))}
    known = {envelope for found in plan.envelopes.values() for envelope in found}
    assert again <= known
    assert len(known) <= 4 * 7  # of the seven resolutions


def test_each_frame_has_envelopes_of_its_own(tiny_space):
    jobs = works(tiny_space)
    for pack in planner(tiny_space, "envelope").plan(jobs):
        assert len({frame(jobs[i].arch) for i in pack.members}) == 1


def test_long_training_runs_exactly_and_short_training_in_envelopes(paper_space):
    short, long = works(paper_space, steps=1), works(paper_space, steps=10**6)
    assert all(isinstance(p.shape, Envelope) for p in planner(paper_space).plan(short, later=400))
    assert all(isinstance(p.shape, ArchSpec) for p in planner(paper_space).plan(long))


def test_a_long_training_leaves_its_envelope(tiny_space):
    plan = planner(tiny_space, "auto")
    assert all(isinstance(p.shape, Envelope) for p in plan.plan(works(tiny_space, steps=1), 500))
    late = plan.plan(works(tiny_space, 4, steps=10**6))
    assert any(isinstance(p.shape, ArchSpec) for p in late)


@pytest.mark.parametrize(("program", "kind"), [("envelope", Envelope), ("exact", ArchSpec)])
def test_the_config_can_force_either(tiny_space, program, kind):
    for steps in (1, 10**6):
        packs = planner(tiny_space, program).plan(works(tiny_space, steps=steps))
        assert all(isinstance(pack.shape, kind) for pack in packs)


def test_an_architecture_outside_of_the_space_runs_exactly(tiny_space):
    arch = works(tiny_space, 1)[0].arch
    stages = (dataclasses.replace(arch.stages[0], channels=999), *arch.stages[1:])
    foreign = dataclasses.replace(arch, stages=stages)
    packs = planner(tiny_space, "envelope").plan([Work(arch, 1), Work(foreign, 1)])
    assert [type(p.shape) for p in packs] == [Envelope, ArchSpec]


def test_more_than_60_percent_of_what_runs_is_useful_on_the_paper_space(paper_space):
    plan, jobs = planner(paper_space, "envelope"), works(paper_space, 96)
    assert plan.efficiency(jobs, plan.plan(jobs)) >= 0.6


@pytest.mark.parametrize(
    ("name", "channels", "steps", "least"),
    # Digits train for seconds: there another program would cost more than the padding.
    [("digits", 1, 440, 0.45), ("fashion_mnist", 1, 5058, 0.6), ("sign_digits", 3, 816, 0.6)],
)
@pytest.mark.parametrize("program", ["auto", "envelope"])
def test_most_of_what_runs_is_useful_on_the_spaces_of_the_configs(
    name, channels, steps, least, program
):
    """Of candidates within the budget of the config, as in its pool."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    space = JointSpace.from_config(config.space.to_dict(), channels, num_classes=10)
    limit = parse_quantity(config.budget.flops) if config.budget.flops else np.inf
    jobs = [job for job in works(space, 300, steps) if count(job.arch).flops <= limit][:48]
    assert len(jobs) == 48
    batch = config.train.batch_size
    plan = Planner(space, CPU, devices=2, batch=batch, tiled=True, program=program)
    assert plan.efficiency(jobs, plan.plan(jobs)) >= least


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "sign_digits"])
def test_a_plan_does_not_depend_on_the_number_of_cpu_devices(name):
    """Programs differ in the last bits, and a study has the same trials on any number of them."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    space = JointSpace.from_config(config.space.to_dict(), 1, 10)
    jobs, plans = works(space, 12, steps=400), []
    for devices in (1, 2, 4, 8, 64):
        plan = Planner(space, CPU, devices, batch=32, tiled=True, sample=[w.arch for w in jobs])
        plans.append([plan.plan(some, later) for some, later in ((jobs[:8], 40), (jobs[8:], 4))])
    assert all(found == plans[0] for found in plans)


def test_more_devices_compile_side_by_side_and_afford_no_fewer_envelopes(paper_space):
    """On accelerators; twice the devices halve what envelopes cost as well as what they save."""
    jobs = works(paper_space, 32, steps=2)
    jobs = [job for job in jobs if job.arch.resolution == jobs[0].arch.resolution]
    found = []
    for devices in (1, 4):
        plan = Planner(paper_space, CPU, devices, batch=64, tiled=False, program="envelope")
        plan.plan(jobs, later=64)
        found.append(sum(map(len, plan.envelopes.values())))
    assert found[0] > 1
    assert found[1] >= found[0]


def test_large_networks_run_exactly_on_accelerators(paper_space):
    """Padded, one envelope for each resolution would do 2 in 5 multiply-adds to some use."""
    jobs = works(paper_space, 16, steps=1000)
    plan = Planner(paper_space, ACCELERATOR, devices=8, batch=256, tiled=False)
    assert plan.efficiency(jobs, plan.plan(jobs, later=100)) >= 0.6


def test_exact_programs_execute_what_is_useful(tiny_space):
    jobs = works(tiny_space, 8)
    plan = planner(tiny_space, "exact")
    assert plan.efficiency(jobs, plan.plan(jobs)) == 1.0


def test_tiles_execute_less_than_padding_and_more_than_needed(paper_space):
    for work in works(paper_space, 20):
        envelope = envelope_of_space(paper_space, work.arch)
        tiled, padded = (executed_macs(envelope, work.arch, batch) for batch in (64, 0))
        assert count(work.arch).macs <= tiled <= padded
