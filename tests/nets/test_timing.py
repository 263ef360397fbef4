"""What is timed is what runs; that nothing of it is optimised away."""

import dataclasses

import jax
import numpy as np
import pytest

from jointnas_jax.nets import conv, timing
from jointnas_jax.nets.init import initial_variables
from jointnas_jax.nets.latency import BLOCK, pieces_of
from jointnas_jax.nets.network import Network, NetworkPart
from jointnas_jax.nets.timing import Setting, least_seconds, seconds_of, time_networks, time_pieces
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

ARCH = ArchSpec(12, 3, 10, Stem(8), (Stage(16, 1, se=True, stride=2),), Head(16, 2))
LARGE = ArchSpec(32, 3, 10, Stem(64, stride=1), (Stage(64, 2),), Head(64, 2))


@pytest.fixture(scope="module")
def setting():
    return Setting(jax.local_devices()[0])


@pytest.mark.parametrize("lowering", ["conv", "matmul"])
def test_the_parts_one_after_the_other_are_the_network(lowering):
    variables = initial_variables(ARCH, jax.random.key(0))
    images = np.random.default_rng(0).normal(size=(1, 12, 12, 3)).astype(np.float32)
    x = images
    for part in ("stem", "block", "head"):
        x = NetworkPart(ARCH, lowering, part=part).apply(variables, x)
    expected = Network(ARCH, lowering).apply(variables, images)
    np.testing.assert_allclose(x, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_each_piece_of_a_network_runs_in_its_dtype(setting, dtype):
    setting = dataclasses.replace(setting, dtype=dtype)
    pieces = [piece for piece, count in pieces_of(ARCH) if count]
    assert len(pieces) == 3
    times = time_pieces(pieces, setting)
    assert (times >= 1).all()
    assert (times < 1e9).all()


@pytest.mark.slow
def test_a_loop_does_all_of_its_turns(setting):
    """Where a compiler moved the block out of the loop, eight times the turns took no longer."""
    piece = next(piece for piece, _ in pieces_of(LARGE) if piece.kind == BLOCK)
    calls = [timing._piece_call(piece, turns, setting) for turns in (4, 32)]
    few, many = least_seconds(calls, rounds=5)
    assert 4 < many / few < 12
    assert time_pieces([piece], setting)[0] == pytest.approx(1e9 * many / 32, rel=0.5)


def test_larger_networks_take_longer(setting):
    small, large = time_networks([ARCH, LARGE], setting)
    assert large > 2 * small > 0


def test_the_least_of_each_call_counts_and_calls_take_turns(monkeypatch):
    made, clock = [], iter(range(10**6))
    monkeypatch.setattr(timing, "_seconds", lambda call: call() or next(clock))
    least = least_seconds([lambda: made.append("a"), lambda: made.append("b")], 2, 3)
    assert least.tolist() == [0, 3]
    assert "".join(made) == "aaaabbbb" * 2


def test_repeats_that_take_long_are_fewer(monkeypatch):
    monkeypatch.setattr(timing, "_seconds", lambda call: 2.0)
    assert len(seconds_of(lambda: None, 50, most_seconds=10)) == 5
    assert len(seconds_of(lambda: None, 50, most_seconds=30)) == 15
    assert len(seconds_of(lambda: None, 7, most_seconds=30)) == 7


def test_the_name_of_a_setting_tells_devices_versions_and_lowerings_apart(setting):
    name = setting.name
    assert jax.__version__ in name
    assert setting.device.device_kind in name
    assert dataclasses.replace(setting, dtype="bfloat16").name != name
    assert dataclasses.replace(setting, lowering="matmul").name != name
    assert conv.resolve_lowering("conv") in name
