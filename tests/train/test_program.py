"""Every knob of the recipe acts on training, and acts as it should."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from time import sleep

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from recipes import PLAIN, flat

from jointnas_jax.config import TrainConfig
from jointnas_jax.data import augment
from jointnas_jax.data.augment import Augmentation, EpochPlan
from jointnas_jax.nets import zoo
from jointnas_jax.nets.init import initial_variables, zero_variables
from jointnas_jax.nets.network import Network
from jointnas_jax.space import Candidate
from jointnas_jax.train import program as programs
from jointnas_jax.train import step as steps
from jointnas_jax.train.feed import Feed
from jointnas_jax.train.parallel import replicate
from jointnas_jax.train.program import TrainProgram
from jointnas_jax.train.recipe_arrays import RecipeArrays


def _train(program, arch, recipe, feed, *, epochs, seed=0):
    candidates, keys = [Candidate(arch, recipe)], [jax.random.key(seed)]
    return program.train(candidates, keys, feed, epochs=epochs)[0]


@pytest.fixture
def feed(data, evaluation):
    return Feed(data, evaluation)


def make(arch, config, augmentation):
    return TrainProgram(arch, config, augmentation=augmentation, devices=jax.devices()[:1])


def change(**fields):
    return dataclasses.replace(PLAIN, **fields)


def test_training_learns(run):
    accuracies = run(change(lr=0.1), epochs=12).accuracies
    assert len(accuracies) == 12
    assert accuracies[-1] >= 0.9


def test_the_same_seed_gives_the_same_bits_and_another_does_not(run):
    a, b, other = (run(change(dropout=0.3, mixup=0.2), seed=s) for s in (0, 0, 1))
    assert a.accuracies == b.accuracies
    np.testing.assert_array_equal(flat(a), flat(b))
    assert not np.array_equal(flat(a), flat(other))


@pytest.mark.parametrize(
    "fields",
    [
        dict(lr=0.05),
        dict(optimizer="rmsprop"),
        dict(ema=True),
        dict(dropout=0.3),
        dict(stochastic_depth=0.5),
        dict(mixup=0.5),
        dict(weight_decay=1e-2),
        dict(label_smoothing=0.1),
        dict(lr_end=0.5),
        dict(warmup=0.5),
        dict(sgd_lr_scale=2.0),
    ],
)
def test_every_knob_changes_the_weights(run, fields):
    assert not np.allclose(flat(run(PLAIN)), flat(run(change(**fields))), atol=1e-6)


def test_ema_decay_acts_where_ema_is_on_only(run):
    off = [flat(run(change(ema_decay=d))) for d in (0.5, 0.9)]
    on = [flat(run(change(ema=True, ema_decay=d), epochs=4)) for d in (0.05, 0.9)]
    np.testing.assert_array_equal(*off)
    assert not np.allclose(*on)


def test_no_second_recipe_seed_or_split_compiles(arch, run, program, feed):
    run(PLAIN)
    other = change(lr=0.3, optimizer="rmsprop", ema=True, dropout=0.2, mixup=0.3)
    with compilations() as compiled:
        run(dataclasses.replace(other, stochastic_depth=0.2), seed=7)
        members = replicate(np.ones(96, bool), jax.devices()[:1])
        everything = feed._replace(train=feed.train.replace(members=members))
        _train(program, arch, PLAIN, everything, epochs=3, seed=1)
    assert compiled == []


def test_mean_losses_are_computed_on_the_host(arch, run, program, feed, monkeypatch):
    """As a collective of devices that are late for it the mean ended the process."""

    class Shards:
        def __array__(self, dtype=None, copy=None):
            return np.float32([1.0, 3.0])

        def mean(self, *_, **__):
            raise AssertionError("runs on the devices")

    run(PLAIN)
    real, losses = program._epoch, []
    monkeypatch.setattr(program, "_epoch", lambda *inputs: (*real(*inputs)[:3], Shards()))
    progress = lambda epoch, loss: losses.append((epoch, loss))
    key = jax.random.key(0)
    program.train([Candidate(arch, PLAIN)], [key], feed, epochs=2, progress=progress)
    assert losses == [(1, 1.0), (2, 1.0)]  # of the lane that trains a candidate


def test_threads_that_need_a_program_compile_it_once(arch, feed, monkeypatch):
    started = []
    monkeypatch.setattr(TrainProgram, "_compile_all", lambda *_: started.append(1) or sleep(0.2))
    program = make(arch, TrainConfig(), Augmentation())
    one = Candidate(arch, PLAIN)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: program.compile(one, feed), range(3)))
    assert started == [1]


def test_a_diverging_loss_fails_at_its_step(run):
    training = run(change(lr=1e18, sgd_lr_scale=1e18), epochs=4)
    assert training.failed_step is not None
    assert training.failed_step <= 4 * 4
    assert training.variables is None
    assert len(training.accuracies) < 4


def test_accuracies_of_a_failure_end_before_it(arch, program, feed):
    """With a rate that grows with every epoch: the first is sound."""
    recipe = change(lr=1.0, lr_end=1e70)
    trained = _train(program, arch, recipe, feed, epochs=8)
    failed_epoch = trained.failed_step // 4  # steps of an epoch
    assert failed_epoch > 0
    assert len(trained.accuracies) == failed_epoch


def test_progress_gets_the_loss_of_candidates_that_still_train():
    """Not of lanes that repeat one to be full, nor of one that diverged; chunks add up."""
    chunks = [np.float32([[0.5, np.nan], [1.0, 9.0]]), np.float32([[1.0, 1.0], [2.0, 9.0]])]
    assert programs._mean_loss(chunks, 3) == (1.5 + 3.0) / 2
    assert np.isnan(programs._mean_loss([np.float32([np.nan, 1.0])], 1))


def test_weights_that_the_last_update_breaks_are_a_failure(arch, program, feed):
    """One step: its loss is finite, what it leaves behind is not."""
    recipe = change(lr=1e38, sgd_lr_scale=1e38)
    members = replicate(np.arange(96) < 16, jax.devices()[:1])
    few = feed._replace(train=feed.train.replace(members=members))
    trained = _train(program, arch, recipe, few, epochs=1)
    assert trained.failed_step == 0
    assert trained.variables is None


def test_a_shorter_training_is_the_beginning_of_a_longer_one(run):
    recipe = change(lr_end=0.4, warmup=0.2)
    whole = run(recipe, epochs=5).metrics
    assert run(recipe, epochs=3, full_epochs=5).metrics == whole[:3]
    assert run(recipe, epochs=3).metrics != whole[:3]


def test_training_uses_members_only(arch, program, data, feed):
    """What non-members look like makes no difference."""
    noise = data.replace(
        images=jnp.where(data.members[:, None, None, None], data.images, 255 - data.images)
    )
    a = _train(program, arch, PLAIN, feed, epochs=2)
    b = _train(program, arch, PLAIN, feed._replace(train=noise), epochs=2)
    np.testing.assert_array_equal(flat(a), flat(b))


# -- one step, looked at closely -----------------------------------------------------------------


@pytest.fixture(scope="module")
def one(arch, images, data):
    """Takes `count` steps on one batch; returns state and losses."""
    module = Network(arch, "matmul")
    initial = initial_variables(arch, jax.random.key(0))
    step = jax.jit(
        lambda s, r, b: steps.train_step(
            s,
            b,
            module=module,
            augmentation=Augmentation(),
            recipe=r,
            stats=data.stats,
            steps_per_epoch=jnp.int32(4),
            key=jax.random.key(5),
        )
    )

    def take(recipe, count=1, mixup=1.0):
        batch = steps.Batch(
            jnp.asarray(images[0][:16]),
            jnp.asarray(images[1][:16]),
            EpochPlan(
                steps=None,
                images=None,
                corners=jnp.zeros((16, 2), jnp.int32),
                flips=jnp.zeros(16, bool),
                mixup=jnp.float32(mixup),
            ),
        )
        state, losses, history = steps.init_state(initial), [], []
        for _ in range(count):
            state, loss = step(state, RecipeArrays.of(recipe, 1), batch)
            losses.append(float(loss))
            history.append(state)
        return history, losses

    return take


@pytest.fixture(scope="module")
def tree(arch):
    """Variables of a state as a tree."""
    return lambda state: steps.unflat(np.asarray(state.variables), zero_variables(arch))


def test_ema_averages_weights_and_batch_statistics(one, arch):
    recipe = change(ema=True, ema_decay=0.15)
    history, _ = one(recipe, count=4)
    for i in range(1, 4):
        decay = min(0.15, (1 + i) / (10 + i))  # less at first, so that the start is forgotten
        expected = decay * history[i - 1].averaged + (1 - decay) * history[i].variables
        np.testing.assert_allclose(history[i].averaged, expected, rtol=1e-4, atol=1e-6)
    last = history[-1]
    assert last.variables.shape == last.averaged.shape == (steps.flat(zero_variables(arch)).size,)
    counts = lambda r: np.asarray(steps.trained_variables(last, RecipeArrays.of(r, 1)))
    np.testing.assert_array_equal(counts(recipe), last.averaged)
    np.testing.assert_array_equal(counts(PLAIN), last.variables)


def test_a_state_has_few_arrays_whatever_the_network():
    """Each takes a host ten microseconds to pass on, in every call of a training program."""
    state = steps.init_state(zero_variables(zoo.fbnetv3("a")))
    assert len(jax.tree.leaves(state)) <= 6


def test_batch_statistics_move(one, tree):
    history, _ = one(PLAIN, count=2)
    a, b = (jax.tree.leaves(tree(state)["batch_stats"]) for state in history)
    assert any(not np.allclose(x, y) for x, y in zip(a, b, strict=True))


def test_weight_decay_shrinks_kernels(one, tree):
    norm = lambda history: sum(
        float((x**2).sum()) for x in jax.tree.leaves(tree(history[-1])["params"]) if x.ndim > 1
    )
    assert norm(one(change(weight_decay=0.5), 10)[0]) < 0.9 * norm(one(PLAIN, 10)[0])


def test_label_smoothing_and_mixup_raise_the_reachable_loss(one):
    plain = one(change(lr=0.1), 40)[1][-1]
    smooth = one(change(lr=0.1, label_smoothing=0.3), 40)[1][-1]
    mixed = one(change(lr=0.1), 40, mixup=0.7)[1][-1]
    # The entropy of the targets is the least that cross-entropy can reach.
    entropy = -(0.8 * np.log(0.8) + 2 * 0.1 * np.log(0.1))
    assert plain < 0.1
    assert smooth >= entropy > plain
    assert mixed > plain


def test_dropout_and_stochastic_depth_act_in_training_only(arch, one, images, data, tree):
    module = Network(arch, "matmul")
    variables = tree(one(change(lr=0.1), 5)[0][-1])
    x = augment.normalise(jnp.asarray(images[0][:16]), data.stats.mean, data.stats.std)

    def logits(train, seed=0, **rates):
        rngs = {name: jax.random.key(seed) for name in ("dropout", "stochastic_depth")}
        out = module.apply(variables, x, train=train, rngs=rngs, mutable=["batch_stats"], **rates)
        return np.asarray(out[0])

    for rates in (dict(dropout=0.5), dict(stochastic_depth=0.9)):
        assert not np.allclose(logits(True, **rates), logits(True))
        assert not np.allclose(logits(True, seed=0, **rates), logits(True, seed=1, **rates))
        np.testing.assert_array_equal(logits(False, **rates), logits(False))


def test_augmentation_acts_where_the_dataset_asks_for_it(arch, feed, run):
    plain = flat(run(PLAIN))
    for augmentation in (Augmentation(crop_padding=1), Augmentation(flip=True)):
        config = TrainConfig(batch_size=16, fast_compile=True)
        trained = _train(make(arch, config, augmentation), arch, PLAIN, feed, epochs=2)
        assert not np.allclose(flat(trained), plain)


def test_padding_does_not_count_in_accuracy(arch, data, evaluation, feed, program, images):
    """32 held-out images in batches of 20: 8 rows are padding."""
    assert evaluation.count == 32
    assert [len(b[1]) for b in evaluation.batches] == [20, 20]
    training = _train(program, arch, change(lr=0.1), feed, epochs=3)
    module = Network(arch, "matmul")
    x = augment.normalise(jnp.asarray(images[0][64:]), data.stats.mean, data.stats.std)
    right = module.apply(training.variables, x).argmax(-1) == images[1][64:]
    assert training.accuracies[-1] == pytest.approx(float(right.mean()))
