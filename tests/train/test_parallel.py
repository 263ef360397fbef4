"""Programs of several devices and JAX's persistent cache."""

import os
import subprocess
import sys

CODE = """
import jax, jax.numpy as jnp, numpy as np
from jointnas_jax.train.parallel import Parallel

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

def grow(x):
    step = lambda i, y: jnp.tanh(y @ jnp.ones((8, 8))) + jnp.arange(8.0) * i
    return jax.lax.fori_loop(0, 5, step, x).sum(-1)

out = Parallel(grow, "l", jax.devices())(np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8))
print(np.asarray(out).tobytes().hex())
"""


def test_a_program_from_the_cache_runs_on_all_devices(tmp_path):
    """Its copies lack what the cache left out, so it is compiled for the others."""
    environment = dict(os.environ) | {
        "JAX_NUM_CPU_DEVICES": "2",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path),
    }
    printed = []
    for _ in range(3):  # compiled; the first device's from the cache; both from the cache
        done = subprocess.run(
            [sys.executable, "-c", CODE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-500:]
        printed.append(done.stdout)
    assert printed[0] == printed[1] == printed[2]
