"""Programs compile for chips that are not there, by the chips' own compilers.

Those for TPU come with the extra `tpu`, those for GPU with `cuda`; without them these tests are
skipped. Nothing is executed: what is said is what the compilers say.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.absent import absent_devices
from benchmarks.accelerators import CASES, Case, build
from benchmarks.hlo import Program
from jointnas_jax.config import EvolutionConfig, PredictorConfig, TrainConfig
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.cost import CostTable
from jointnas_jax.nets.envelope import Envelope, ranges_of
from jointnas_jax.predictor.fit import fit, pretrain, score
from jointnas_jax.runtime.chips import CHIPS
from jointnas_jax.space import ArchSpec, Candidate, Head, JointSpace, Recipe, Stage, Stem
from jointnas_jax.strategy.evolution import evolve

PLUGINS = {"tpu": "libtpu", "gpu": "jax_cuda13_plugin"}
slow = functools.partial(pytest.param, marks=pytest.mark.slow)
ALL = [slow(name) for name in CHIPS]
# One program takes ten seconds of a core.
QUICK = ["v5e", *(slow(name) for name in CHIPS if name != "v5e")]

SPACE = dict(
    resolution=8,
    stem=dict(channels=8, stride=2),
    stages=(dict(kernel=3, expand=[1, 2], channels=[8, 16], depth=(1, 2)),),
    head=dict(channels=16, expand=1),
    recipe={},
)
ARCH = ArchSpec(8, 1, 3, Stem(8, stride=2), (Stage(8, 1, 3, 3, 2, 2),), Head(channels=16, expand=1))


@pytest.fixture
def chips():
    """Four devices of a chip by its name."""

    def get(name):
        pytest.importorskip(PLUGINS[CHIPS[name].platform])
        return absent_devices(name)

    return get


def small(shape=ARCH, **changes):
    return Case(
        shape=shape,
        candidate=Candidate(ARCH, Recipe()),
        sample=[ARCH],
        train=TrainConfig(batch_size=16, **changes),
        augmentation=Augmentation(crop_padding=1, flip=True),
        images=64,
        side=8,
    )


def compiled(case, devices, lanes=1, **settings):
    return build(case, devices, lanes, **settings).compile(case.candidate, case.feed())


def memory_of(program):
    seen = program.memory_analysis()
    return seen.temp_size_in_bytes + seen.argument_size_in_bytes


def collectives(program, device):
    return [i.opcode for i in Program(program.as_text(), device.platform).collectives()]


@pytest.mark.parametrize("name", QUICK)
def test_an_exact_program_compiles_whole_and_fits(chips, name):
    devices = chips(name)[:1]
    programs = compiled(small(), devices)
    assert set(programs) == {"epoch", "plan", "evaluate"}
    assert all(memory_of(program) < 1e7 for program in programs.values())
    step = Program(programs["epoch"].as_text(), devices[0].platform).step
    assert 20 < step.operations < 400
    assert (step.cycles > 0) == (devices[0].platform == "tpu")


@pytest.mark.parametrize("name", QUICK)
def test_candidates_on_four_chips_do_not_wait_for_each_other(chips, name):
    devices = chips(name)
    programs = compiled(small(), devices)
    assert collectives(programs["epoch"], devices[0]) == []
    assert jax.default_backend() == "cpu"  # nothing asks it


@pytest.mark.parametrize("name", QUICK)
def test_lanes_of_an_envelope_share_a_chip(chips, name):
    space = JointSpace.from_config(SPACE, 1, 3)
    shape = Envelope.of(ranges_of(space, ARCH), 1, 3)
    assert shape.holds(ARCH)
    devices = chips(name)[:1]
    programs = compiled(small(shape), devices, lanes=2)
    assert memory_of(programs["epoch"]) < 1e7
    assert collectives(programs["epoch"], devices[0]) == []


@pytest.mark.parametrize("name", ALL)
def test_chips_that_share_a_batch_exchange_sums_and_no_images(chips, name):
    """Gradients and BN statistics are summed; mixup's partner is on the same chip."""
    devices = chips(name)
    programs = compiled(small(), devices, together=True)
    found = collectives(programs["epoch"], devices[0])
    assert found
    assert {opcode.removesuffix("-start") for opcode in found} <= {"all-reduce"}


@pytest.mark.parametrize("name", ALL)
def test_an_evolution_within_a_budget_compiles(chips, name):
    (device, *_) = chips(name)
    space = JointSpace.from_config(SPACE, 1, 3)
    table, sharding = CostTable.of(space), jax.sharding.SingleDeviceSharding(device)
    start = jax.ShapeDtypeStruct((64, len(space.knobs)), np.int32, sharding=sharding)
    key = jax.ShapeDtypeStruct((2,), np.uint32, sharding=sharding)

    def program(start, key):
        return evolve(
            start,
            jax.random.wrap_key_data(key),
            lambda vectors: vectors.sum(1).astype(jnp.float32),
            feasible=table.within({"flops": 20_000}),
            canonical=space.canonical,
            cardinalities=space.cardinalities,
            config=EvolutionConfig(population=16),
        )

    done = jax.jit(program).lower(start, key).compile()
    assert Program(done.as_text(), device.platform).step.operations > 10


@pytest.mark.parametrize("name", ALL)
def test_a_predictor_compiles_its_pretraining_fit_and_scores(chips, name):
    (device, *_) = chips(name)
    sharding = jax.sharding.SingleDeviceSharding(device)
    config = PredictorConfig(width=8, members=2, pretrain_epochs=2, full_epochs=2, frozen_epochs=2)
    shape = lambda *sizes, dtype=np.float32: jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=sharding)
    arch, recipe = shape(32, 5), shape(32, 3)
    first = functools.partial(pretrain, recipe_width=3, config=config)
    put = functools.partial(jax.tree.map, lambda a: shape(*a.shape, dtype=a.dtype))
    state = put(jax.eval_shape(first, arch, shape(32, 2), key))
    again = functools.partial(fit, config=config)
    count = shape(dtype=np.int32)
    for function, arguments, more in (
        (first, (arch, shape(32, 2), key), {}),
        (again, (state, (arch, recipe), shape(32)), {"count": count, "key": key}),
        (functools.partial(score, config=config), (state, (arch, recipe)), {}),
    ):
        assert memory_of(jax.jit(function).lower(*arguments, **more).compile()) < 1e8


@pytest.mark.parametrize("letter", ["a", "g"])
@pytest.mark.parametrize("name", ALL)
def test_a_published_network_trains_on_a_chip(chips, name, letter):
    """Minutes of a core each; a batch that fits the smallest chip."""
    case = CASES[f"fbnetv3_{letter}"](batch_size=32)
    programs = compiled(dataclasses.replace(case, images=64), chips(name)[:1])
    assert memory_of(programs["epoch"]) < CHIPS[name].memory
