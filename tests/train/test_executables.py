"""Programs of several devices and the compilation cache."""

import os
import subprocess
import sys

import jax
import jaxlib
import pytest

xla_client = getattr(jaxlib, "xla_client", None)

CODE = """
import jax, jax.numpy as jnp, numpy as np
from jointnas_jax.train.parallel import Copied

compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **more: event.endswith("backend_compile_duration") and compiled.append(more)
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

def grow(x):
    step = lambda i, y: jnp.tanh(y @ jnp.ones((8, 8))) + jnp.arange(8.0) * i
    return jax.lax.fori_loop(0, 5, step, x).sum(-1)

lanes = np.arange(len(jax.devices()) * 3 * 8, dtype=np.float32).reshape(-1, 3, 8)
out = Copied(grow, "l", jax.devices())(lanes)
print(len(compiled), np.asarray(out).tobytes().hex())
"""


@pytest.fixture
def run(tmp_path):
    """Runs the program in a process of its own: its compilations, and its results' bytes."""

    def in_process(code=CODE, **more):
        environment = dict(os.environ) | {
            "JAX_NUM_CPU_DEVICES": "3",
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
        }
        environment |= more
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-500:]
        compiled, out = done.stdout.split()
        return int(compiled), out

    return in_process


def test_one_compilation_serves_all_devices_and_later_runs(run):
    first, again = run(), run()
    assert (first[0], again[0]) == (1, 0)
    assert first[1] == again[1]


def test_a_program_of_one_device_serves_another_one_later(run):
    code = CODE.replace(
        'Copied(grow, "l", jax.devices())(lanes)',
        '[np.asarray(Copied(grow, "l", [d])(lanes[:1])) for d in jax.devices()]',
    )
    assert code != CODE
    compiled, out = run(code)
    assert compiled == 1
    third = len(out) // 3
    assert out[:third] == out[third : 2 * third] == out[2 * third :]


def test_a_cache_that_is_switched_off_is_neither_read_nor_written(run, tmp_path):
    off = dict(JAX_ENABLE_COMPILATION_CACHE="false")
    assert run(**off)[0] == 1
    assert list(tmp_path.iterdir()) == []
    run()
    assert run(**off)[0] == 1


@pytest.mark.smoke
def test_jaxlib_has_the_private_names_that_copies_of_programs_need():
    """JAX has no public ones; without them each device compiles its own program."""
    executable = jax.jit(lambda x: x + 1).lower(1.0).compile().runtime_executable()
    names = {
        "jaxlib.xla_client": "CompileOptions DeviceAssignment DeviceList get_topology_for_devices",
        "jax.Device.client": "deserialize_executable platform_version",
        "jax.stages.Compiled.runtime_executable": "execute_sharded serialize",
    }
    places = (xla_client, jax.devices()[0].client, executable)
    missing = [
        f"{place}: {name}"
        for (place, text), has in zip(names.items(), places, strict=True)
        for name in text.split()
        if not hasattr(has, name)
    ]
    assert not missing, (
        f"find other names in {jax.__version__}, for train/executables.py: {missing}"
    )


@pytest.mark.parametrize("fault", ["cut", "flipped", "missing"])
def test_a_damaged_copy_is_not_loaded(run, tmp_path, fault):
    """What JAX's own cache still has serves the first device, the others are compiled for."""
    first = run()
    (path,) = tmp_path.glob("*-every-device")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.unlink()
    if fault != "missing":
        path.write_bytes(content if fault == "flipped" else content[: len(content) // 2])
    again = run()
    assert again[1] == first[1]
    assert again[0] > 0
