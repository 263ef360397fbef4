"""The packer divides the space, not only the candidates at hand."""

import dataclasses
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest
from envelopes import envelope_of_space

from jointnas_jax.config import Config, TrainConfig
from jointnas_jax.execution.cost_model import CPU, TPU
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.job import Job
from jointnas_jax.execution.packing import Packer, executed_macs, frame
from jointnas_jax.execution.schedule import Scheduler
from jointnas_jax.nets.cost import count
from jointnas_jax.nets.envelope import Envelope
from jointnas_jax.rules import parse_quantity
from jointnas_jax.space import ArchSpec, Candidate, JointSpace, Recipe

CONFIGS = Path(__file__).parents[2] / "configs"


def sampled(space, count=48, seed=0):
    vectors = space.sample(np.random.default_rng(seed), count)
    return [space.decode(v).arch for v in vectors]


def make(space, program="auto", tiled=True, cost_model=CPU, devices=2, batch=64, sample=()):
    return Packer(
        space,
        cost_model,
        devices=devices,
        batch=batch,
        tiled=tiled,
        program=program,
        sample=sample,
    )


def pack(packer, archs, steps=300, later=0):
    return packer.pack(archs, [steps] * len(archs), later)


def efficiency(packer, archs, steps=300, later=0):
    """Useful over executed multiply-adds."""
    packs = pack(packer, archs, steps, later)
    executed = sum(packer.macs(shape, archs[i]) for shape, some in packs.items() for i in some)
    return sum(count(arch).macs for arch in archs) / executed


def test_every_training_is_in_one_pack_that_holds_it(tiny_space):
    archs = sampled(tiny_space)
    packs = pack(make(tiny_space), archs, later=100)
    assert sorted(i for members in packs.values() for i in members) == list(range(len(archs)))
    for shape, members in packs.items():
        for i in members:
            if isinstance(shape, Envelope):
                assert shape.holds(archs[i])
            else:
                assert shape == archs[i]


@pytest.mark.parametrize("tiled", [pytest.param(False, marks=pytest.mark.slow), True])
def test_later_rounds_need_no_other_envelope(paper_space, tiled):
    packer = make(paper_space, "envelope", tiled)
    first = pack(packer, sampled(paper_space, 100)).keys()
    assert all(isinstance(shape, Envelope) for shape in first)
    again = pack(packer, sampled(paper_space, 100, seed=1)).keys()
    chosen = {envelope for some in packer.envelopes.values() for envelope in some}
    assert again <= chosen
    assert len(chosen) <= 4 * 7  # of the seven resolutions


def test_each_frame_has_envelopes_of_its_own(tiny_space):
    archs = sampled(tiny_space)
    for members in pack(make(tiny_space, "envelope"), archs).values():
        assert len({frame(archs[i]) for i in members}) == 1


def test_long_training_runs_exactly_and_short_training_in_envelopes(paper_space):
    archs = sampled(paper_space)
    short = pack(make(paper_space), archs, steps=1, later=400)
    long = pack(make(paper_space), archs, steps=10**6)
    assert all(isinstance(shape, Envelope) for shape in short)
    assert all(isinstance(shape, ArchSpec) for shape in long)


def test_a_long_training_leaves_its_envelope(tiny_space):
    packer = make(tiny_space, "auto")
    short = pack(packer, sampled(tiny_space), steps=1, later=500)
    assert all(isinstance(shape, Envelope) for shape in short)
    late = pack(packer, sampled(tiny_space, 4), steps=10**6)
    assert any(isinstance(shape, ArchSpec) for shape in late)


@pytest.mark.parametrize(("program", "kind"), [("envelope", Envelope), ("exact", ArchSpec)])
def test_the_config_can_force_either(tiny_space, program, kind):
    for steps in (1, 10**6):
        packs = pack(make(tiny_space, program), sampled(tiny_space), steps)
        assert all(isinstance(shape, kind) for shape in packs)


def test_an_architecture_outside_of_the_space_runs_exactly(tiny_space):
    (arch,) = sampled(tiny_space, 1)
    stages = (dataclasses.replace(arch.stages[0], channels=999), *arch.stages[1:])
    foreign = dataclasses.replace(arch, stages=stages)
    packs = pack(make(tiny_space, "envelope"), [arch, foreign], steps=1)
    assert [type(shape) for shape in packs] == [Envelope, ArchSpec]


def test_more_than_60_percent_of_what_runs_is_useful_on_the_paper_space(paper_space):
    assert efficiency(make(paper_space, "envelope"), sampled(paper_space, 96)) >= 0.6


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
    archs = [arch for arch in sampled(space, 300) if count(arch).flops <= limit][:48]
    assert len(archs) == 48
    packer = make(space, program, batch=config.train.batch_size)
    assert efficiency(packer, archs, steps) >= least


@pytest.mark.parametrize("name", ["digits", "fashion_mnist", "sign_digits"])
def test_packs_do_not_depend_on_the_number_of_cpu_devices(name):
    """Programs differ in the last bits, and a study has the same trials on any number of them."""
    config = runpy.run_path(str(CONFIGS / f"{name}.py"))["get_config"]()
    space = JointSpace.from_config(config.space.to_dict(), 1, 10)
    archs, found = sampled(space, 12), []
    for devices in (1, 2, 4, 8, 64):
        packer = make(space, devices=devices, batch=32, sample=archs)
        found.append([pack(packer, archs[:8], 400, 40), pack(packer, archs[8:], 400, 4)])
    assert all(packs == found[0] for packs in found)


def test_more_devices_compile_side_by_side_and_afford_no_fewer_envelopes(paper_space):
    """On accelerators; twice the devices halve what envelopes cost as well as what they save."""
    archs = sampled(paper_space, 32)
    archs = [arch for arch in archs if arch.resolution == archs[0].resolution]
    found = []
    for devices in (1, 4):
        packer = make(paper_space, "envelope", tiled=False, devices=devices)
        pack(packer, archs, steps=2, later=64)
        found.append(sum(map(len, packer.envelopes.values())))
    assert found[0] > 1
    assert found[1] >= found[0]


def test_large_networks_run_exactly_on_accelerators(paper_space):
    """Padded, one envelope for each resolution would do 2 in 5 multiply-adds to some use."""
    packer = make(paper_space, tiled=False, cost_model=TPU, devices=8, batch=256)
    assert efficiency(packer, sampled(paper_space, 16), steps=1000, later=100) >= 0.6


def test_exact_programs_execute_what_is_useful(tiny_space):
    assert efficiency(make(tiny_space, "exact"), sampled(tiny_space, 8)) == 1.0


def test_tiles_execute_less_than_padding_and_more_than_needed(paper_space):
    for arch in sampled(paper_space, 20):
        envelope = envelope_of_space(paper_space, arch)
        tiled, padded = (executed_macs(envelope, arch, batch) for batch in (64, 0))
        assert count(arch).macs <= tiled <= padded


def scheduled(space, archs, chip, steps, program="envelope"):
    """Lanes of the assignments of a batch on one chip."""
    train = TrainConfig(batch_size=32, program=program)
    config = Config(train=train)
    hardware = Hardware.absent(config, chip)
    scheduler = Scheduler(config, space, hardware, {False: steps, True: steps})
    recipe = Recipe()
    jobs = {i: Job(Candidate(a, recipe), jax.random.key(0), 1) for i, a in enumerate(archs)}
    return [assignment.lanes for assignment in scheduler.schedule(jobs).assignments]


def test_lanes_are_as_many_as_are_worth_compiling(tiny_space):
    """On a GPU they compile in the same time; on a TPU in more, which long trainings are worth."""
    archs = [arch for arch in sampled(tiny_space, 64) if arch.resolution == 8][:16]
    assert max(scheduled(tiny_space, archs, "h200", steps=100)) >= 8
    short, long = (max(scheduled(tiny_space, archs, "v5e", steps)) for steps in (100, 10**7))
    assert short < long
