"""What steps of known size reach of known roofs."""

import jax
import pytest

from benchmarks.roofline import Roofline, map_bytes
from jointnas_jax.nets.cost import count
from jointnas_jax.space import ArchSpec, Head, Stage, Stem

ARCH = ArchSpec(8, 3, 10, Stem(8, stride=1), (Stage(16, 1, 3, 3, 2, 2),), Head(32, 1))


def test_maps_are_counted_as_they_are_read_and_written():
    # Stem 8x8 of 8 channels; block: 8 in, 16 hidden, 16 out, 8x8; head 16 hidden.
    stem, block = 4 * 8 * 64, (8 + 4 * 16 + 6 * 16 + 4 * 16) * 64
    assert map_bytes(ARCH) == 4 * (stem + block + (16 + 4 * 16) * 64)


def test_shares_are_of_the_roofs():
    roof = Roofline(operations=6 * count(ARCH).macs * 4 * 10, traffic=3 * map_bytes(ARCH) * 4 * 5)
    shares = roof.shares([ARCH, ARCH], batch=4, seconds=1.0)
    assert shares["of_matmul_roof"] == pytest.approx(0.1)
    assert shares["of_memory_roof"] == pytest.approx(0.2)


def test_roofs_are_those_of_a_computer():
    roof = Roofline.measured(jax.local_devices()[:1])
    assert 1e8 < roof.operations < 1e15
    assert 1e8 < roof.traffic < 1e14
