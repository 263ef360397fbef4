import json

import jax
import pytest

from jointnas_jax.execution import cost_model as machines
from jointnas_jax.execution.cost_model import CPU, cost_model_of, measured_speed_factors


@pytest.fixture
def probes(monkeypatch):
    """Replaces the measurement; counts how often it is made."""
    calls = []

    def probe(device):
        calls.append(device)
        return 4.3 * machines._CPU_PROBE[0], machines._CPU_PROBE[1]

    monkeypatch.setattr(machines, "_probe", probe)
    return calls


def test_a_machine_is_measured_once_and_in_powers_of_two(tmp_path, probes):
    first, second = (measured_speed_factors(jax.devices()[0], tmp_path) for _ in range(2))
    assert first == second == (4.0, 1.0)
    assert cost_model_of("cpu", first, fast_compile=False) == CPU.scaled(4.0, 1.0)
    assert len(probes) == 1


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1]",
        '{"cpu": 3}',
        '{"x": ["a", "b"]}',
        "[" * 10**5,
        '{"%s": [NaN, 1]}',
        '{"%s": [1, 0]}',
    ],
)
def test_a_broken_file_is_measured_again(tmp_path, probes, content):
    name = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    (tmp_path / "machine.json").write_text(content.replace("%s", name))
    assert measured_speed_factors(jax.devices()[0], tmp_path) == (4.0, 1.0)
    assert len(probes) == 1


def test_a_folder_that_cannot_be_written_costs_a_measurement(tmp_path, probes):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert measured_speed_factors(jax.devices()[0], tmp_path / "file") == (4.0, 1.0)
    assert len(probes) == 2


def test_other_machines_stay_in_the_file(tmp_path, probes):
    (tmp_path / "machine.json").write_text('{"other": [2.0, 1.0]}')
    measured_speed_factors(jax.devices()[0], tmp_path)
    stored = json.loads((tmp_path / "machine.json").read_text())
    assert stored["other"] == [2.0, 1.0]
    assert len(stored) == 2


def test_the_measurement_itself_is_positive_and_of_this_machine():
    compiling, training = machines._probe(jax.devices()[0])
    assert compiling > training > 0


def test_a_slower_machine_takes_longer_in_everything():
    slow = CPU.scaled(2.0, 4.0)
    assert slow.exact.compile_block == 2 * CPU.exact.compile_block
    assert slow.rate == CPU.rate / 4
    assert slow.envelope.step_block == 4 * CPU.envelope.step_block
