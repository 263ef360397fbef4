"""Training in an envelope equals training the candidate's own network."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jointnas_jax.config import TrainConfig
from jointnas_jax.data import augment
from jointnas_jax.data.augment import Augmentation
from jointnas_jax.nets.envelope import Envelope, cut_variables, pad_variables
from jointnas_jax.nets.init import zero_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import JointSpace
from jointnas_jax.train import executables
from jointnas_jax.train import program as programs
from jointnas_jax.train.feed import EvalData, TrainData
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.step import PixelStats

STEPS, BATCH = 20, 8
# 12 x 12 maps are too large for Toeplitz matrices, 6 x 6 maps are not: both lowerings take part.
SPACE = dict(
    resolution=12,
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
        warmup_epochs=[0, 1],
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
    return Envelope.of_space(space, space.decode(np.zeros(len(space.knobs), np.int32)).arch)


@pytest.fixture(scope="module")
def program(envelope):
    """Compiled programs by (shape, devices, lanes per device)."""
    made = {}

    def get(shape=None, devices=1, lanes=1):
        name = (shape or envelope, devices, lanes)
        if name not in made:
            config = TrainConfig(batch_size=BATCH, fast_compile=True)
            used = jax.devices()[:devices]
            made[name] = TrainProgram(name[0], config, Augmentation(1, True), used, lanes)
        return made[name]

    return get


@pytest.fixture(scope="module")
def train(program, split):
    def run(candidates, shape=None, devices=1, lanes=1, epochs=1, seeds=None):
        images, labels, stats = split
        used = jax.devices()[:devices]
        data = replicate(TrainData(images, labels, np.ones(len(labels), bool), stats), used)
        evaluation = replicate(EvalData.of(images[:40], labels[:40], stats, 40), used)
        keys = [jax.random.key(s) for s in (seeds or range(len(candidates)))]
        return program(shape, devices, lanes).train(candidates, keys, data, evaluation, epochs)

    return run


def candidate(space, **values):
    base = space.values(np.zeros(len(space.knobs), np.int32))
    return space.decode(space.vector_from_values(base | values))


def assert_equal_training(ours, expected):
    """Up to float rounding: 1e-4 of all weights, in norm.

    Single weights get ten times as much: rounding grows over twenty steps, most where a gradient
    is zero but for rounding. A draw, switch or mask at fault shows at 1e-2 and more.
    """
    assert ours.failed_step is expected.failed_step is None
    flat = lambda t: np.concatenate([np.ravel(v) for v in jax.tree.leaves(t.variables["params"])])
    difference = np.linalg.norm(flat(ours) - flat(expected))
    assert difference <= 1e-4 * np.linalg.norm(flat(expected))

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3 * max(0.1, np.abs(b).max()))

    jax.tree.map(close, ours.variables, expected.variables)


# Every switch at least once, next to what is drawn.
CASES = [
    dict(optimizer="rmsprop", stage1_depth=2, stage2_depth=2, stage2_se=True, dropout=0.3),
    dict(stage1_expand=2, stage1_kernel=5, stage1_channels=16, stem_channels=16, mixup=0.4),
    dict(stage1_depth=2, ema=True, stage2_expand_rest=3, stage2_depth=2, stochastic_depth=0.3),
]


@pytest.mark.parametrize("values", CASES)
def test_the_envelope_trains_like_the_network_itself(space, train, values):
    one = candidate(space, **values)
    alone = train([one], shape=one.arch)[0]
    assert_equal_training(train([one])[0], alone)  # in tiles
    assert_equal_training(train([one, one], lanes=2, seeds=[0, 1])[0], alone)  # padded, `vmap`


@settings(max_examples=3, derandomize=True)  # each compiles a program
@given(seed=st.integers(0, 10_000))
def test_any_candidate_trains_in_the_envelope_like_alone(space, train, seed):
    one = space.decode(space.sample(np.random.default_rng(seed), 1)[0])
    assert_equal_training(train([one], seeds=[seed])[0], train([one], one.arch, seeds=[seed])[0])


def test_padding_stays_exactly_zero(space, envelope, train, monkeypatch):
    seen = []
    monkeypatch.setattr(
        programs, "cut_variables", lambda v, t: seen.append(v) or cut_variables(v, t)
    )
    candidates = [candidate(space, **values) for values in CASES]
    for one in candidates:
        train([one])
    train(candidates[:2], lanes=2)
    assert len(seen) == 5
    for one, whole in zip([*candidates, *candidates[:2]], seen, strict=True):
        cut = cut_variables(whole, zero_variables(one.arch))
        back = pad_variables(cut, zero_variables(envelope))
        jax.tree.map(np.testing.assert_array_equal, back, whole)


def test_what_is_cut_out_predicts_what_the_envelope_does(space, split, train):
    one = candidate(space, **CASES[0])
    training = train([one])[0]
    images, labels, stats = split
    x = augment.normalise(images[:40], stats.mean, stats.std)
    right = Network(one.arch).apply(training.variables, x).argmax(-1) == labels[:40]
    assert training.accuracies[-1] == pytest.approx(float(right.mean()))


def test_a_lane_that_diverges_leaves_its_neighbours_alone(space, train):
    sound, other = candidate(space, **CASES[0]), candidate(space, **CASES[2])
    recipe = dataclasses.replace(other.recipe, lr=1e18)
    broken = dataclasses.replace(other, recipe=recipe)
    for where in (dict(devices=2), dict(lanes=2)):
        expected = train([sound, other], **where)[0]
        kept, failed = train([sound, broken], **where)
        assert failed.failed_step is not None
        assert failed.variables is None
        assert kept.accuracies == expected.accuracies
        jax.tree.map(np.testing.assert_array_equal, kept.variables, expected.variables)


def assert_same_training(ours, expected):
    """Bit for bit."""
    assert ours.accuracies == expected.accuracies
    jax.tree.map(np.testing.assert_array_equal, ours.variables, expected.variables)


@pytest.mark.parametrize("devices", [2, 4])
def test_any_number_of_devices_gives_the_same_bits(space, train, devices):
    candidates = [candidate(space, **values) for values in [*CASES, {}]]
    for start in range(0, 4, devices):
        seeds = range(start, start + devices)
        together = train([candidates[s] for s in seeds], devices=devices, seeds=list(seeds))
        for seed, ours in zip(seeds, together, strict=True):
            assert_same_training(ours, train([candidates[seed]], seeds=[seed])[0])


def test_a_jaxlib_that_cannot_copy_programs_compiles_them_instead(space, train, monkeypatch):
    monkeypatch.setattr(executables, "_load", lambda *_: None)
    one, other = (candidate(space, **values) for values in CASES[:2])
    together = train([one, other], devices=3)
    assert_same_training(together[1], train([other], seeds=[1])[0])


def test_lanes_need_not_be_full(space, train):
    one = candidate(space, **CASES[1])
    ours = train([one], devices=4)
    assert len(ours) == 1
    assert_same_training(ours[0], train([one])[0])
