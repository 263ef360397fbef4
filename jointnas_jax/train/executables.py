"""Compiled programs: one compilation serves every device of this run and of later runs."""

import hashlib
import os
import tempfile
import threading
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
from jaxlib import xla_client

_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size


def executables_on(
    devices: Sequence[jax.Device],
    lower: Callable[[jax.Device], Any],
    options: dict[str, Any],
) -> tuple[list[Any], Any]:
    """Compiles a program of one device once, and loads it on every device.

    JAX's persistent cache knows a program of another device as another program, and on CPU what
    came out of it cannot be copied to another device. So the copy that all devices load is kept
    beside JAX's entries.

    Args:
      devices: to load it on.
      lower: the program lowered (`jax.stages.Lowered`) for a device.
      options: for XLA.

    Returns:
      The loaded executable of each device, and shapes of the results on one.
    """
    lowered = lower(devices[0])
    several = len(jax.local_devices()) > 1  # others may be asked for in another call
    kept = _kept_file(lowered, devices[0], options) if several else None
    if kept is not None:
        loaded = _load(_read(kept), devices)
        if loaded is not None:
            return loaded, lowered.out_info
    hits = _cache.hits
    first = lowered.compile(compiler_options=options).runtime_executable()
    others = None
    if several and _cache.hits == hits:
        program = _serialized(first)
        others = _load(program, devices[1:])
        if others is not None and kept is not None:
            _write(kept, program)
    if others is None:  # of the same module, so the results are the same
        compiled = [lower(device).compile(compiler_options=options) for device in devices[1:]]
        others = [program.runtime_executable() for program in compiled]
    return [first, *others], lowered.out_info


def _kept_file(lowered: Any, device: jax.Device, options: dict[str, Any]) -> Path | None:
    """Where the copy of a program lies; None without a compilation cache.

    Its name is a digest of all that the machine code depends on.
    """
    folder = jax.config.jax_compilation_cache_dir
    if not folder or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        machine = xla_client.get_topology_for_devices([device]).fingerprint()
    except (AttributeError, TypeError, jax.errors.JaxRuntimeError):
        return None
    depends_on = (
        *(jax.__version__, jaxlib.__version__, device.platform, device.device_kind, machine),
        *(device.client.platform_version, os.environ.get("XLA_FLAGS"), sorted(options.items())),
        lowered.as_text(),
    )
    return Path(folder) / f"{_DIGEST(repr(depends_on).encode()).hexdigest()}-every-device"


def _read(path: Path) -> bytes | None:
    """What `_write` wrote; None for a missing or damaged file."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return zlib.decompress(packed) if _DIGEST(packed).digest() == digest else None


def _write(path: Path, program: bytes) -> None:
    """Whole or not at all; a cache that cannot be written is only slower."""
    packed = zlib.compress(program, level=1)
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(_DIGEST(packed).digest() + packed)
        os.replace(file.name, path)
    except OSError:
        return


def _serialized(executable: Any) -> bytes | None:
    try:
        return executable.serialize()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None


def _load(program: bytes | None, devices: Sequence[jax.Device]) -> list[Any] | None:
    """Loads a compiled program on each device; None where this jaxlib or backend cannot.

    jax has no public name for it; without it a program is compiled for each device.
    """
    if program is None:
        return None
    loaded = []
    try:
        for device in devices:
            options = xla_client.CompileOptions()
            options.num_replicas = options.num_partitions = 1
            options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
            only = xla_client.DeviceList((device,))
            loaded.append(device.client.deserialize_executable(program, only, options))
    except (AttributeError, TypeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    return loaded


class _Cache(threading.local):
    """How often this thread got a program from JAX's persistent cache."""

    hits = 0


_cache = _Cache()


def _count_hits(event: str, **_: Any) -> None:
    if event == "/jax/compilation_cache/cache_hits":
        _cache.hits += 1


jax.monitoring.register_event_listener(_count_hits)
