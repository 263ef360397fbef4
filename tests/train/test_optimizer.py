import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from jointnas_jax.space import Recipe
from jointnas_jax.train.optimizer import (
    MOMENTUM,
    RMS_DECAY,
    RMS_EPSILON,
    learning_rate,
    recipe_optimizer,
)
from jointnas_jax.train.recipe_arrays import RecipeArrays


def _params():
    rng = np.random.default_rng(0)
    return {"kernel": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), "bias": jnp.ones(3)}


def _run(optimizer, params, steps=5, **extra):
    state, unravel = optimizer.init(params), ravel_pytree(params)[1]
    for step in range(steps):
        grads = jax.tree.map(lambda p: jnp.sin(p + step), params)  # noqa: B023
        updates, state = optimizer.update(grads, state, params, **extra)
        # Ours are one vector.
        updates = unravel(updates) if isinstance(updates, jax.Array) else updates
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("sgd", optax.sgd(0.1, momentum=MOMENTUM)),
        (
            "rmsprop",
            optax.rmsprop(
                0.1, decay=RMS_DECAY, eps=RMS_EPSILON, initial_scale=1.0, momentum=MOMENTUM
            ),
        ),
    ],
)
def test_equals_the_optax_optimizer_of_that_name(name, reference):
    recipe = RecipeArrays.of(Recipe(optimizer=name, weight_decay=0.0), 1)
    ours = _run(recipe_optimizer(), _params(), recipe=recipe, learning_rate=jnp.float32(0.1))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, _run(reference, _params())
    )


@pytest.mark.parametrize("name", ["sgd", "rmsprop"])
def test_weight_decay_is_coupled_and_spares_vectors(name):
    recipe = RecipeArrays.of(Recipe(optimizer=name, weight_decay=0.1), 1)
    ours = _run(recipe_optimizer(), _params(), recipe=recipe, learning_rate=jnp.float32(0.1))
    base = (
        optax.sgd(0.1, momentum=MOMENTUM)
        if name == "sgd"
        else optax.rmsprop(
            0.1, decay=RMS_DECAY, eps=RMS_EPSILON, initial_scale=1.0, momentum=MOMENTUM
        )
    )
    mask = {"kernel": True, "bias": False}
    reference = optax.chain(optax.add_decayed_weights(0.1, mask=mask), base)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, _run(reference, _params())
    )


def test_learning_rate_warms_up_then_decays_once_an_epoch():
    recipe = RecipeArrays.of(Recipe(lr=0.2, optimizer="rmsprop", lr_end=1 / 8, warmup=0.5), 4)
    rates = [float(learning_rate(recipe, jnp.int32(s), jnp.int32(4))) for s in range(16)]
    warmup = np.minimum(1.0, (np.arange(16) + 1) / 8)
    np.testing.assert_allclose(rates, 0.2 * warmup * 0.5 ** (np.arange(16) // 4), rtol=1e-5)


@pytest.mark.parametrize("epochs", [2, 7, 150])
def test_a_recipe_means_the_same_at_any_length(epochs):
    arrays = RecipeArrays.of(Recipe(lr=1.0, optimizer="rmsprop", lr_end=0.1, warmup=0.25), epochs)
    rate = lambda epoch: float(learning_rate(arrays, jnp.int32(4 * epoch), jnp.int32(4)))
    assert rate(epochs - 1) == pytest.approx(0.1, rel=1e-4)
    assert float(arrays.warmup_epochs) == pytest.approx(epochs / 4)


def test_sgd_gets_its_own_scale_of_the_learning_rate():
    lr = {
        name: float(RecipeArrays.of(Recipe(lr=0.02, optimizer=name, sgd_lr_scale=4.0), 1).lr)
        for name in ("sgd", "rmsprop")
    }
    assert lr == pytest.approx({"sgd": 0.08, "rmsprop": 0.02})
