"""Training in an envelope equals training the candidate's own network."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np
import pytest
from envelopes import envelope_of_space
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from jointnas_jax.config import TrainConfig
from jointnas_jax.data import augment
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.envelope import Switches, cut_variables, pad_variables
from jointnas_jax.nets.init import zero_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import JointSpace
from jointnas_jax.train import parallel
from jointnas_jax.train import program as programs
from jointnas_jax.train.feed import EvalData, Feed, TrainData
from jointnas_jax.train.parallel import Pmapped, replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import PixelStats

STEPS, BATCH = 20, 8
# 9 x 9 maps are too large for Toeplitz matrices, 5 x 5 maps are not: both ways take part.
SPACE = dict(
    resolution=9,
    stem=dict(channels=[8, 16], stride=1),
    stages=(
        dict(kernel=[3, 5], expand=[1, 2], channels=[8, 16], depth=(1, 2)),
        dict(
            kernel=[3, 5],
            expand=dict(first=[2, 3], rest=[1, 3]),
            channels=[16, 24],
            depth=(1, 2),
            stride=2,
            se=[False, True],
        ),
    ),
    head=dict(channels=[16, 32], expand=2),
    recipe=dict(
        lr=(0.01, 0.05, 0.01),
        optimizer=["sgd", "rmsprop"],
        sgd_lr_scale=2.0,
        ema=[False, True],
        dropout=[0.0, 0.3],
        stochastic_depth=[0.0, 0.3],
        mixup=[0.0, 0.4],
        weight_decay=[1e-4, 1e-2],
        label_smoothing=[0.0, 0.1],
        warmup=[0.0, 0.3],
    ),
)


@pytest.fixture(scope="module")
def space():
    return JointSpace.from_config(SPACE, image_channels=3, num_classes=4)


@pytest.fixture(scope="module")
def split():
    """Noise with a bright corner for each class, and its pixel statistics."""
    rng = np.random.default_rng(0)
    labels = np.arange(STEPS * BATCH, dtype=np.int32) % 4
    images = rng.integers(0, 150, (len(labels), 12, 12, 3))
    for i, label in enumerate(labels):
        images[i, 6 * (label // 2) :, 6 * (label % 2) :] += 100
    return images.astype(np.uint8), labels, PixelStats(np.float32([100] * 3), np.float32([60] * 3))


@pytest.fixture(scope="module")
def envelope(space):
    return envelope_of_space(space, space.decode(np.zeros(len(space.knobs), np.int32)).arch)


class Way(NamedTuple):
    """How candidates train side by side.

    Attributes:
      lowering: as in the config.
      devices: how many.
      lanes: candidates on each.
      pmap: whether `jax.pmap` maps over devices, as on accelerators.
    """

    lowering: str = "matmul"
    devices: int = 1
    lanes: int = 1
    pmap: bool = False


# As on CPU: the true channels only, in tiles. As on accelerators: padded, several lanes on each.
TILES, LANES, ACCELERATORS = Way(), Way("conv", 1, 3), Way("conv", 2, 2, pmap=True)
WAYS = [TILES, LANES, ACCELERATORS]


@pytest.fixture(scope="module")
def program(envelope):
    """Compiled programs by shape and way; without a shape, of the envelope."""
    made = {}

    def get(shape=None, way=TILES):
        name = (shape or envelope, way)
        if name not in made:
            config = TrainConfig(batch_size=BATCH, fast_compile=True, lowering=way.lowering)
            used = jax.devices()[: way.devices]
            with pytest.MonkeyPatch.context() as patch:
                if way.pmap:
                    patch.setattr(parallel, "way_of", lambda platform: Pmapped)
                programs._plan_program.cache_clear()
                made[name] = TrainProgram(
                    name[0],
                    config,
                    augmentation=Augmentation(1, True),
                    devices=used,
                    lanes_per_device=way.lanes,
                )
        return made[name]

    return get


@pytest.fixture(scope="module")
def train(program, split):
    def run(candidates, shape=None, way=TILES, epochs=1, seeds=None):
        images, labels, stats = split
        used = jax.devices()[: way.devices]
        members = np.ones(len(labels), bool)
        data = TrainData(images=images, labels=labels, members=members, stats=stats)
        evaluation = EvalData.of(images[:40], labels[:40], stats, batch_size=40)
        feed = replicate(Feed(data, evaluation), used)
        keys = [jax.random.key(s) for s in (seeds or range(len(candidates)))]
        return program(shape, way).train(candidates, keys, feed, epochs=epochs)

    return run


class Trained(NamedTuple):
    """What evolved, in the shapes of the envelope and cut to those of the architecture."""

    whole: dict
    own: dict


@pytest.fixture(scope="module")
def evolve(program, envelope, train):
    """Trains candidates and returns all that evolved, `Trained`, besides the `Training`."""

    def run(candidates, shape=None, way=TILES, seeds=None):
        with pytest.MonkeyPatch.context() as patch:
            used, seen = program(shape, way), []
            epoch = used._one_epoch
            patch.setattr(used, "_one_epoch", lambda *a: seen.append(epoch(*a)) or seen[-1])
            trainings = train(candidates, shape, way, seeds=seeds)
        axes = 1 + (way.lanes > 1)
        state = jax.tree.map(
            lambda a: np.reshape(a, (-1, *a.shape[axes:])), jax.device_get(seen[-1][0].state)
        )
        lane = lambda number: jax.tree.map(lambda a: a[number], state)
        templates = [zero_variables(c.arch) for c in candidates]
        return [
            (training, evolved(lane(i), zero_variables(shape or envelope), templates[i]))
            for i, training in enumerate(trainings)
        ]

    return run


def evolved(state, template, own):
    flat = lambda tree: ravel_pytree(tree)[1]
    rms, momentum = (jax.tree.leaves(part)[0] for part in state.optimizer)
    whole = dict(
        **flat(template)(state.variables),
        averaged=flat(template)(state.averaged),
        rms=flat(template["params"])(rms),
        momentum=flat(template["params"])(momentum),
    )
    templates = own | dict(averaged=own, rms=own["params"], momentum=own["params"])
    return Trained(whole, {k: cut_variables(v, templates[k]) for k, v in whole.items()})


def candidate(space, **values):
    base = space.values(np.zeros(len(space.knobs), np.int32))
    return space.decode(space.vector_from_values(base | values))


def assert_equal_training(ours, expected):
    """Up to float rounding, after twenty steps: 1e-4 in norm, of everything that evolves.

    A draw, switch or mask at fault shows at 1e-2 and more.
    """
    (ours, state), (alone, expected) = ours, expected
    assert ours.failed_step is alone.failed_step is None
    for name, tree in expected.own.items():
        flat, found = (ravel_pytree(t)[0] for t in (tree, state.own[name]))
        assert np.linalg.norm(found - flat) <= 1e-4 * np.linalg.norm(flat), name
    shapes = lambda t: jax.tree.map(np.shape, t.variables)
    assert shapes(ours) == shapes(alone)


# Every switch at least once, next to what is drawn.
CASES = [
    dict(optimizer="rmsprop", stage1_depth=2, stage2_depth=2, stage2_se=True, dropout=0.3),
    dict(stage1_expand=2, stage1_kernel=5, stage1_channels=16, stem_channels=16, mixup=0.4),
    dict(stage1_depth=2, ema=True, stage2_expand_rest=3, stage2_depth=2, stochastic_depth=0.3),
]


def cases(space):
    return [candidate(space, **values) for values in CASES]


@pytest.fixture(scope="module")
def alone(space, evolve):
    """Each of the cases as a network of its own."""
    return [evolve([one], one.arch, seeds=[i])[0] for i, one in enumerate(cases(space))]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(TILES, id="tiles"),
        pytest.param(LANES, id="lanes", marks=pytest.mark.slow),
        pytest.param(ACCELERATORS, id="accelerators"),
    ],
)
def together(request, space, evolve):
    """The cases in the envelope: way, and what became of them."""
    way, some = request.param, cases(space)
    count = way.devices * way.lanes
    return way, [
        found
        for start in range(0, len(some), count)
        for found in evolve(
            some[start : start + count],
            way=way,
            seeds=list(range(len(some)))[start : start + count],
        )
    ]


def test_the_envelope_trains_like_the_network_itself(together, alone):
    for ours, expected in zip(together[1], alone, strict=True):
        assert_equal_training(ours, expected)


def test_padding_stays_exactly_zero(together, space, envelope):
    for _, state in together[1]:
        for name in ("params", "batch_stats", "averaged", "momentum"):
            whole = zero_variables(envelope)
            template = {"averaged": whole, "momentum": whole["params"]} | whole
            back = pad_variables(state.own[name], template[name])
            jax.tree.map(np.testing.assert_array_equal, back, state.whole[name])


def test_what_is_cut_out_answers_what_the_envelope_does(together, space, envelope, split):
    way, found = together
    images, _, stats = split
    x = augment.resize(augment.normalise(images[:40], stats.mean, stats.std), 9)
    one, (training, state) = cases(space)[0], found[0]
    whole = {name: state.whole[name] for name in ("params", "batch_stats")}
    if one.recipe.ema:
        whole = state.whole["averaged"]
    switches = Switches.of(one.arch, envelope)
    inside = jax.jit(lambda v: Network(envelope, way.lowering).apply(v, x, switches=switches))
    outside = jax.jit(lambda v: Network(one.arch, "matmul").apply(v, x))
    expected, logits = inside(whole), outside(training.variables)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def draw(space, seed):
    return space.decode(space.sample(np.random.default_rng(seed), 1)[0])


@settings(max_examples=1, derandomize=True)  # each compiles a program
@given(seed=st.integers(0, 10_000))
def test_any_candidate_trains_in_the_envelope_like_alone(space, evolve, seed):
    one = draw(space, seed)
    ours, alone = (evolve([one], shape, seeds=[seed])[0] for shape in (None, one.arch))
    assert_equal_training(ours, alone)


@pytest.mark.slow
@settings(max_examples=20, derandomize=True)
@given(seed=st.integers(0, 10_000), way=st.sampled_from([*WAYS, Way(devices=2, pmap=True)]))
def test_any_candidate_trains_in_any_way_like_alone(space, evolve, seed, way):
    count = way.devices * way.lanes
    some = [draw(space, seed + i) for i in range(count)]
    together = evolve(some, way=way, seeds=[seed + i for i in range(count)])
    for i in (0, count - 1):
        assert_equal_training(together[i], evolve([some[i]], some[i].arch, seeds=[seed + i])[0])


def test_a_lane_that_diverges_leaves_its_neighbours_alone(together, space, train):
    """In a lane beside it, and on another device."""
    way, sound = together
    if way == TILES:
        way = Way(devices=4)
    some = cases(space)
    recipe = dataclasses.replace(some[1].recipe, lr=1e18)
    found = train([some[0], dataclasses.replace(some[1], recipe=recipe), *some[2:]], way=way)
    assert found[1].failed_step is not None
    assert found[1].variables is None
    for i in (0, 2):
        assert_same_training(found[i], sound[i][0])


class _Stop(Exception):
    pass


def test_lanes_cost_no_grouped_convolution_and_no_copy_of_the_state(program, train, space):
    """What `vmap` makes of an epoch, looked at before it is compiled."""
    used = program(way=Way("conv", 1, 2))
    seen = []

    def stop(values):
        seen.extend(values)
        raise _Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(used._epoch, "_build", stop)
        with pytest.raises(_Stop):
            train(cases(space)[:2], way=Way("conv", 1, 2))
    shape = lambda a, cut: jax.ShapeDtypeStruct(np.shape(a)[cut:], a.dtype)
    mapped = [axis is not None for axis in used._epoch._mapped]
    own = [
        jax.tree.map(lambda a, cut=cut: shape(a, int(cut)), value)
        for value, cut in zip(seen, mapped, strict=True)
    ]
    jaxpr = jax.make_jaxpr(used._epoch._function)(*own).jaxpr
    (loop,) = (eqn for eqn in jaxpr.eqns if eqn.primitive.name == "while")
    # One end for all lanes; else every part of the state would be selected at every step.
    assert [end.shape for end in loop.params["cond_jaxpr"].out_avals] == [()]
    convolutions = [eqn for eqn in equations(jaxpr) if eqn.primitive.name == "conv_general_dilated"]
    assert convolutions
    for eqn in convolutions:  # depthwise still, of the channels of both lanes
        groups = max(eqn.params["feature_group_count"], eqn.params["batch_group_count"])
        assert groups == eqn.invars[0].aval.shape[3]


def equations(jaxpr):
    """All equations, those of inner functions and loops included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda p: hasattr(p, "eqns") or hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                yield from equations(getattr(inner, "jaxpr", inner))


def assert_same_training(ours, expected):
    """Bit for bit."""
    assert ours.accuracies == expected.accuracies
    jax.tree.map(np.testing.assert_array_equal, ours.variables, expected.variables)


def test_four_devices_give_the_same_bits_as_one(space, train):
    candidates = [*cases(space), candidate(space)]
    together = train(candidates, way=Way(devices=4))
    for seed, (one, ours) in enumerate(zip(candidates, together, strict=True)):
        assert_same_training(ours, train([one], seeds=[seed])[0])


def test_lanes_need_not_be_full(space, train):
    one = candidate(space, **CASES[1])
    ours = train([one], way=Way(devices=4))
    assert len(ours) == 1
    assert_same_training(ours[0], train([one])[0])
