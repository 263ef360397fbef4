"""Accelerators that are not there: their compilers compile for them all the same.

TPU needs the extra `tpu` (libtpu), GPU the extra `cuda` (JAX's CUDA plugin; no driver).
Nothing can run: what is known of a program is what its compiler says.
"""

import importlib.metadata
import os
from typing import Any

import jax

from jointnas_jax.errors import InputError
from jointnas_jax.runtime.chips import CHIPS

# Four chips, as few hosts have fewer.
_TPU_TOPOLOGIES = {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v6e": "v6e:2x2"}

# Cycles per second by which TPU compilers count: peak over operations of the matrix units a cycle.
CLOCKS = {"v4": 1.05e9, "v5e": 1.5e9, "v6e": 1.75e9}

# So that libtpu asks nobody for a TPU, locks nothing, and is quiet.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
}

# What XLA asks a GPU for, from its maker's tables.
_GPU_TEXT = """gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: {shared} threads_per_core_limit: 2048 core_count: {cores}
  fpus_per_core: {units} block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: {bandwidth} l2_cache_size: {cache}
  clock_rate_ghz: {clock} device_memory_size: {memory} shared_memory_per_block_optin: {most_shared}
  cuda_compute_capability {{ major: {major} }} registers_per_core_limit: 65536
  registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 10 }} device_description_str: "{kind}" """
_GPUS: dict[str, dict[str, Any]] = {
    "a100": dict(
        shared=167936, most_shared=166912, cores=108, units=64, cache=41943040, clock=1.41, major=8
    ),
    "h200": dict(
        shared=233472, most_shared=232448, cores=132, units=128, cache=52428800, clock=1.98, major=9
    ),
}


def absent_devices(name: str) -> tuple[jax.Device, ...]:
    """Four devices of a chip of `CHIPS`, to compile for.

    Raises:
      InputError: its compiler is not installed.
    """
    from jax.experimental import topologies

    chip = CHIPS[name]
    try:
        if chip.platform == "tpu":
            os.environ |= {k: os.environ.get(k, v) for k, v in _ENVIRONMENT.items()}
            described = topologies.get_topology_desc(
                platform="tpu", topology_name=_TPU_TOPOLOGIES[name]
            )
        else:
            text = _GPU_TEXT.format(
                bandwidth=int(chip.bandwidth), memory=chip.memory, kind=chip.kind, **_GPUS[name]
            )
            described = topologies.get_topology_desc(
                platform="cuda", topology_name=name, target_config=text, topology="1x1x4"
            )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        extra = "tpu" if chip.platform == "tpu" else "cuda"
        raise InputError(
            f"the compiler for `{name}` does not start: {str(error).splitlines()[0]}; it comes "
            f'with the extra: pip install -e ".[{extra}]"'
        ) from error
    return tuple(described.devices)[:4]


def compiler_versions(platform: str) -> dict[str, str]:
    """Versions that estimates depend on."""
    packages = {"tpu": ["libtpu"], "gpu": ["jax-cuda13-plugin", "nvidia-cudnn-cu13"]}
    names = ["jax", "jaxlib", *packages.get(platform, [])]
    return {name: importlib.metadata.version(name) for name in names}
