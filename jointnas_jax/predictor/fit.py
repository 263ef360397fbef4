"""Pretraining, fitting and scoring of the predictor, each one compiled program.

An ensemble of members that differ in initialisation and batch order takes the place of the paper's
single network (`members=1`): its mean varies less from fit to fit, and its spread is a measure of
its uncertainty. Two choices are unpublished: steps shrink along a cosine, and more trials make
larger batches.

Shapes: N candidates, A and R features of architecture and recipe, P proxies, M members.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jointnas_jax.config import PredictorConfig
from jointnas_jax.predictor.model import PredictorNet


class PredictorState(flax.struct.PyTreeNode):
    """The networks of a predictor: Flax parameters, each with a leading axis of M."""

    params: Any


@functools.partial(jax.jit, static_argnames=("recipe_width", "config"))
def pretrain(
    arch: jax.Array, costs: jax.Array, key: jax.Array, *, recipe_width: int, config: PredictorConfig
) -> PredictorState:
    """Initialises all members and trains encoder and proxy head on costs, which are free.

    Args:
      arch: `float32[N, A]`, features of random architectures.
      costs: `float32[N, P]`, not negative; the target is the standardised logarithm, where 0
        counts as half of the smallest positive cost.
      key: consumed.
      recipe_width: R.
      config: sizes and schedules.
    """
    smallest = jnp.where(costs > 0, costs, jnp.inf).min(0)
    logs = jnp.log(jnp.where(costs > 0, costs, jnp.where(jnp.isinf(smallest), 1, smallest / 2)))
    targets = (logs - logs.mean(0)) / jnp.maximum(logs.std(0), 1e-6)
    net = _net(config, costs.shape[1])

    def loss(params: Any, rows: jax.Array, mask: jax.Array) -> jax.Array:
        predicted = net.apply(params, arch[rows], method="predict_proxies")
        errors = optax.huber_loss(predicted, targets[rows], delta=config.huber_delta).mean(-1)
        return _masked_mean(errors, mask)

    def one(key: jax.Array) -> Any:
        init_key, train_key = jax.random.split(key)
        recipe = jnp.zeros((1, recipe_width))
        params = net.init(init_key, arch[:1], recipe)
        return _train(
            loss,
            params,
            optimizer=optax.adam(config.pretrain_lr),
            count=len(arch),
            capacity=len(arch),
            batch_size=min(256, len(arch)),
            largest_batch=min(256, len(arch)),
            epochs=config.pretrain_epochs,
            key=train_key,
        )

    return PredictorState(jax.vmap(one)(jax.random.split(key, config.members)))


@functools.partial(jax.jit, static_argnames="config")
def fit(
    pretrained: PredictorState,
    features: tuple[jax.Array, jax.Array],
    targets: jax.Array,
    *,
    count: jax.Array,
    key: jax.Array,
    config: PredictorConfig,
) -> PredictorState:
    """Fits all members to targets, starting from the pretrained weights.

    Half of the epochs keep the encoder frozen and compute its outputs once, half train everything
    at a lower rate (paper section 3.2).

    Args:
      pretrained: the result of `pretrain`.
      features: `float32[N, A]` of the architectures and `float32[N, R]` of the recipes; rows from
        `count` on are padding, so that more trials compile nothing.
      targets: `float32[N]`, standardised scores.
      count: `int32[]`, trials to learn from, at least 1.
      key: consumed.
      config: sizes and schedules.
    """
    net, (arch, recipe) = _net(config, _proxies(pretrained)), features
    delta = config.huber_delta
    # More trials make larger batches, not more steps.
    smallest, most_steps = 8, 8
    largest = max(smallest, -(-len(targets) // most_steps))
    train = functools.partial(
        _train,
        count=count,
        capacity=len(targets),
        batch_size=jnp.maximum(smallest, -(-count // most_steps)),
        largest_batch=largest,
    )

    def loss(predicted: jax.Array, rows: jax.Array, mask: jax.Array) -> jax.Array:
        return _masked_mean(optax.huber_loss(predicted, targets[rows], delta=delta), mask)

    def one(params: Any, key: jax.Array) -> Any:
        first, second = jax.random.split(key)
        parts = params["params"]
        embeddings: Any = net.apply(params, arch, method="embed")
        whole = lambda head: {"params": parts | {"accuracy_head": head}}

        def head_loss(head: Any, rows: jax.Array, mask: jax.Array) -> jax.Array:
            embedded = embeddings[rows]
            predicted: Any = net.apply(whole(head), embedded, recipe[rows], method="accuracy_of")
            return loss(predicted, rows, mask)

        def full_loss(params: Any, rows: jax.Array, mask: jax.Array) -> jax.Array:
            predict = functools.partial(net.apply, params, method="predict_accuracy")
            predicted: Any = predict(arch[rows], recipe[rows])
            return loss(predicted, rows, mask)

        head = train(
            head_loss,
            parts["accuracy_head"],
            optimizer=optax.adam(config.frozen_lr),
            epochs=config.frozen_epochs,
            key=first,
        )
        return train(
            full_loss,
            whole(head),
            optimizer=optax.adam(config.full_lr),
            epochs=config.full_epochs,
            key=second,
        )

    return PredictorState(jax.vmap(one)(pretrained.params, jax.random.split(key, config.members)))


def score(
    state: PredictorState, features: tuple[jax.Array, jax.Array], config: PredictorConfig
) -> tuple[jax.Array, jax.Array]:
    """Predicts targets of candidates from features as in `fit`; for use under `jit`.

    Returns:
      Mean and standard deviation over members, `float32[N]` each.
    """
    predict = functools.partial(_net(config, _proxies(state)).apply, method="predict_accuracy")
    arch, recipe = features
    members: Any = jax.vmap(predict, in_axes=(0, None, None))(state.params, arch, recipe)
    return members.mean(0), members.std(0)


def _proxies(state: PredictorState) -> int:
    return state.params["params"]["proxy_head"]["bias"].shape[-1]


def _net(config: PredictorConfig, proxies: int) -> PredictorNet:
    return PredictorNet(proxies, config.width, config.embedding)


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)


def _train(
    loss: Callable[[Any, jax.Array, jax.Array], jax.Array],
    params: Any,
    *,
    optimizer: optax.GradientTransformation,
    count: jax.Array | int,
    capacity: int,
    batch_size: jax.Array | int,
    largest_batch: int,
    epochs: int,
    key: jax.Array,
) -> Any:
    """Trains on the first `count` of `capacity` rows, in shuffled batches; returns parameters.

    The optimizer's steps shrink to zero along a cosine. The parameters are one vector meanwhile:
    the cost of a step of so small a network is the cost of starting its operations.
    """
    steps = (count + batch_size - 1) // batch_size
    vector, unravel = ravel_pytree(params)
    within = jnp.arange(largest_batch)

    def epoch(carry: tuple, inputs: tuple[jax.Array, jax.Array]) -> tuple[tuple, None]:
        key, number = inputs
        draws = jax.random.uniform(key, (capacity,))
        order = jnp.argsort(jnp.where(jnp.arange(capacity) < count, draws, 2.0))
        # Padded so that the last, incomplete batch is a slice like the others.
        order = jnp.pad(order, (0, largest_batch))

        def step(i: jax.Array, carry: tuple) -> tuple:
            vector, state = carry
            rows = jax.lax.dynamic_slice_in_dim(order, i * batch_size, largest_batch)
            mask = (within < batch_size) & (i * batch_size + within < count)
            gradient = jax.grad(lambda v: loss(unravel(v), rows, mask))(vector)
            updates, state = optimizer.update(gradient, state)
            scale = (1 + jnp.cos(jnp.pi * (number + i / steps) / epochs)) / 2
            return vector + scale * updates, state

        return jax.lax.fori_loop(0, steps, step, carry), None

    carry = (vector, optimizer.init(vector))
    inputs = (jax.random.split(key, epochs), jnp.arange(epochs))
    return unravel(jax.lax.scan(epoch, carry, inputs)[0][0])
