import json
from pathlib import Path

import jax
import pytest

from benchmarks.accelerators import CASES
from jointnas_jax.config import Config
from jointnas_jax.execution import cost_model as machines
from jointnas_jax.execution.cost_model import CPU, cost_model_of, measured_speed_factors
from jointnas_jax.execution.hardware import Hardware
from jointnas_jax.execution.packing import Packer
from jointnas_jax.space import JointSpace

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "accelerators"


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


# -- accelerators --------------------------------------------------------------------------------


def rows():
    for file in sorted(DATA.glob("*.json")):
        report = json.loads(file.read_text())
        for row in report["rows"]:
            yield pytest.param(
                report["target"], row, id=f"{file.stem}-{row['case']}-{row['lanes']}"
            )


@pytest.mark.parametrize(("target", "row"), list(rows()))
def test_constants_are_near_what_the_compilers_said(target, row):
    """Within 1.5 times; memory within a quarter, where it is more than a core's caches hold."""
    case = CASES[row["case"]]()
    model = cost_model_of(target, (1.0, 1.0), fast_compile=False)
    packer = Packer(
        JointSpace.fixed(case.candidate), model, devices=1, batch=case.train.batch_size, tiled=False
    )
    lanes, arch = row["lanes"], case.candidate.arch
    step = packer.train_seconds(case.shape, arch, 1, lanes)
    assert step == pytest.approx(row["candidate_step_seconds"], rel=0.5)
    assert row["candidate_step_seconds"] == pytest.approx(step, rel=0.5)
    compiling = packer.compile_seconds(case.shape, lanes)
    assert compiling == pytest.approx(row["compile_cpu_seconds"], rel=0.5)
    assert row["compile_cpu_seconds"] == pytest.approx(compiling, rel=0.5)
    hardware = Hardware.absent(Config(train=case.train), target)
    memory = lanes * hardware.training_bytes(case.shape, case.train.batch_size)
    if row["memory"] > 50e6:
        assert memory == pytest.approx(row["memory"], rel=0.25)


def test_constants_name_the_compilers_of_the_measurements():
    for target in ("v5e", "h200"):
        report = json.loads((DATA / f"{target}.json").read_text())
        source = cost_model_of(target, (1.0, 1.0), fast_compile=False).source
        assert target in source
        assert report["versions"]["jax"] in source
        compiler = {"v5e": "libtpu", "h200": "jax-cuda13-plugin"}[target]
        assert f"{compiler} {report['versions'][compiler]}" in source


def test_a_chip_with_faster_memory_takes_less_for_its_maps():
    slow, fast = (cost_model_of(c, (1.0, 1.0), fast_compile=False) for c in ("v5e", "v6e"))
    assert fast.exact.value / slow.exact.value == pytest.approx(8.19e11 / 1.64e12)
    assert fast.rate > slow.rate
    assert cost_model_of("tpu", (1.0, 1.0), fast_compile=False) == slow  # of a chip of no name here
