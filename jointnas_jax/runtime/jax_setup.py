"""Sets JAX up before its backend starts: devices, compilation cache; quiets other libraries."""

import os
import stat
from pathlib import Path

import jax
import tensorflow_datasets as tfds
from absl import logging

from jointnas_jax.runtime.cache import cache_dir
from jointnas_jax.runtime.memory_maps import devices_with_room
from jointnas_jax.runtime.output import tell

# Programs that compile faster than this are not worth a file.
_CACHED_FROM_SECONDS = 0.5


def prepare_jax(devices: int) -> None:
    """Sets up devices and the persistent compilation cache, before JAX's backend starts.

    Quiets other libraries as well. A CPU has one device per core, for candidates side by side, if
    there is room for their programs.
    """
    os.umask(os.umask(0o022) | 0o022)  # others may not change the files
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        jax.config.update("jax_num_cpu_devices", devices or devices_with_room(cores or 1))
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = cache_dir() / "compiled"
        if _is_private(cache):
            jax.config.update("jax_compilation_cache_dir", str(cache))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _CACHED_FROM_SECONDS)


def platform() -> str:
    """The kind of the devices here, such as "cpu"; starts JAX's backend."""
    return jax.devices()[0].platform


def _is_private(cache: Path) -> bool:
    """Makes a folder private, for compiled programs are code; False where that is not possible."""
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if stat.S_IMODE(cache.stat().st_mode) & 0o077:
            cache.chmod(0o700)
        if cache.stat().st_uid == os.getuid():
            return True
        reason = "belongs to another user"
    except OSError as error:
        reason = f"cannot be used: {error}"
    tell(f"warning: the compilation cache `{cache}` {reason}; it is not used")
    return False
