"""What maps a function over lanes keeps one contract, whichever way it does it."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations

from jointnas_jax.train import executables
from jointnas_jax.train.parallel import Copied, Pmapped, on_device, parallel, replicate, way_of

DEVICES, LANES, N = 4, 3, 5


@pytest.fixture
def compiled():
    with compilations() as found:
        yield found


def function(state, own, shared, unused, nothing):
    """Of one lane; every kind of argument that a training has."""
    step = lambda i, x: jnp.tanh(x + own["a"] * jnp.asarray(shared)[i])
    return {"state": jax.lax.fori_loop(0, N, step, state), "sum": state.sum() + own["b"]}


def arguments(lanes):
    rng = np.random.default_rng(0)
    axes = (DEVICES, lanes) if lanes > 1 else (DEVICES,)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    own = {"a": draw(*axes), "b": draw(*axes)}
    return draw(*axes, 7), own, draw(N), draw(9), None


@pytest.fixture(scope="module", params=[Copied, Pmapped])
def way(request):
    return request.param


@pytest.fixture(scope="module", params=[1, LANES])
def mapped(request, way):
    lanes, devices = request.param, jax.devices()[:DEVICES]
    return lanes, way(function, "llsss", devices, lanes_per_device=lanes)


def test_every_lane_gets_what_the_function_gives(mapped):
    lanes, program = mapped
    values = arguments(lanes)
    found = program(*values)
    flat = lambda a: np.reshape(a, (-1, *np.shape(a)[1 + (lanes > 1) :]))
    state, own, shared, unused, nothing = values
    for lane in range(DEVICES * lanes):
        alone = {name: flat(value)[lane] for name, value in own.items()}
        expected = function(flat(state)[lane], alone, shared, unused, nothing)
        ours = jax.tree.map(lambda a, lane=lane: flat(a)[lane], found)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, expected)


def test_shapes_are_those_of_the_results(mapped):
    lanes, program = mapped
    values = arguments(lanes)
    shapes, results = program.shapes(*values), program(*values)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), results) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes
    )


def test_one_compilation_serves_all_devices_and_calls(way, compiled):
    values = arguments(1)
    program = way(function, "llsss", jax.devices()[:DEVICES])
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), values)
    before = len(compiled)
    program.compile(*shapes)
    assert len(compiled) == before + 1
    first = program(*values)
    program(first["state"], *values[1:])  # of a result, and of what lies on the host
    assert len(compiled) == before + 1


def test_what_is_donated_is_gone_and_what_is_not_stays(way):
    values = arguments(1)
    program = way(function, "llsss", jax.devices()[:DEVICES], donate=(0,))
    state = program(*values)["state"]
    shared = replicate(values[2], jax.devices()[:DEVICES])
    program(state, values[1], shared, *values[3:])
    assert state.is_deleted()
    assert not shared.is_deleted()


def test_what_is_on_the_devices_is_not_copied(way, monkeypatch):
    """Images are gigabytes and go to every call."""
    devices = jax.devices()[:DEVICES]
    values = arguments(1)
    program = way(function, "llsss", devices)
    images = replicate(values[2], devices)
    seen = []
    run = program._run
    monkeypatch.setattr(program, "_run", lambda p, placed: seen.append(placed[2]) or run(p, placed))
    program(*values[:2], images, *values[3:])
    for device in devices:
        there, given = (on_device(a, device).unsafe_buffer_pointer() for a in (seen[0], images))
        assert there == given
    assert seen[0].sharding == images.sharding  # as compiled for: nothing moves in the call either


def test_a_part_of_the_devices_in_any_order_will_do(way):
    devices = jax.devices()[3:1:-1]
    values = jax.tree.map(lambda a: a[:2] if a.shape[0] == DEVICES else a, arguments(1))
    found = way(function, "llsss", devices)(*values)["state"]
    assert [shard.device for shard in found.addressable_shards] == devices


def test_copies_give_the_same_bits_on_any_number_of_devices():
    values = arguments(1)
    run = lambda start, stop: Copied(function, "llsss", jax.devices()[start:stop])(
        *jax.tree.map(lambda a: a[start:stop], values[:2]), *values[2:]
    )
    whole = run(0, DEVICES)
    for parts in ([1] * 4, [2, 2], [3, 1]):
        stops = np.cumsum(parts)
        found = [run(stop - part, stop) for part, stop in zip(parts, stops, strict=True)]
        joined = jax.tree.map(lambda *a: np.concatenate(a), *found)
        jax.tree.map(np.testing.assert_array_equal, joined, whole)


def test_a_jaxlib_that_cannot_copy_programs_compiles_them_instead(monkeypatch, compiled):
    values = arguments(1)
    make = lambda: Copied(function, "llsss", jax.devices()[:DEVICES])
    expected = make()(*values)
    monkeypatch.setattr(executables, "_load", lambda *_: None)
    before = len(compiled)
    jax.tree.map(np.testing.assert_array_equal, make()(*values), expected)
    assert len(compiled) == before + DEVICES


def test_accelerators_use_pmap():
    assert [way_of(platform) for platform in ("cpu", "gpu", "tpu")] == [Copied, Pmapped, Pmapped]
    assert isinstance(parallel(function, "llsss", jax.devices()[:1]), Copied)


def test_every_device_gets_its_part_though_all_ask_at_once():
    """JAX alone does not find a part in one of twenty calls."""
    devices = jax.local_devices()[:DEVICES]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(100):
            tree, together = replicate([np.zeros(3)] * 20, devices), threading.Barrier(len(devices))

            def part(device, tree=tree, together=together):
                together.wait(timeout=60)
                return {leaf.device for leaf in on_device(tree, device)}

            with ThreadPoolExecutor(len(devices)) as pool:
                assert list(pool.map(part, devices)) == [{d} for d in devices]
    finally:
        sys.setswitchinterval(before)
