"""Compiled programs: one compilation serves every device of this run and of later runs."""

import functools
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

from jointnas_jax.runtime.memory_maps import room_for_a_program

_DIGEST = hashlib.sha256
_DIGEST_BYTES = _DIGEST().digest_size
# Errors of a jaxlib without the private names used here (JAX has no public ones for copies of
# programs), and of a backend that cannot copy.
_PRIVATE = (AttributeError, ImportError, TypeError)
_CANNOT = (*_PRIVATE, NotImplementedError, jax.errors.JaxRuntimeError)


def executables_on(
    devices: Sequence[jax.Device],
    lower: Callable[[jax.Device], jax.stages.Lowered],
    options: dict[str, Any],
) -> tuple[list[Any], Any]:
    """Compiles a program of one device once, and loads it on every device.

    In JAX's persistent cache a program of another device is another program, and on CPU an
    executable from the cache cannot be copied to another device. So the copy that all devices load
    is stored beside JAX's entries. Where programs cannot be copied, each device compiles its own.

    Returns:
      The loaded executable of each device, and shapes of the results on one.

    Raises:
      StudyError: there is no room for another program, see `runtime/memory_maps.py`.
    """
    lowered = lower(devices[0])
    several = len(jax.local_devices()) > 1  # another call may be for other devices
    file = _copy_file(lowered, devices[0], options) if several else None
    if file is not None:
        loaded = _load(_read(file), devices)
        if loaded is not None:
            return loaded, lowered.out_info
    cache = _cache_hits()
    before = cache.count
    first = _compiled(lowered, options)
    others = None
    if several and cache.count == before:
        program = _serialized(first)
        others = _load(program, devices[1:])
        if program is not None and others is not None and file is not None:
            _write(file, program)
    if others is None:  # the module is the same, and so are the results
        others = [_compiled(lower(device), options) for device in devices[1:]]
    return [first, *others], lowered.out_info


def _compiled(lowered: jax.stages.Lowered, options: dict[str, Any]) -> Any:
    with room_for_a_program():
        return lowered.compile(compiler_options=options).runtime_executable()


def _copy_file(
    lowered: jax.stages.Lowered, device: jax.Device, options: dict[str, Any]
) -> Path | None:
    """The file of a program's copy; None without a compilation cache.

    Its name is a digest of everything that the machine code depends on.
    """
    config: Any = jax.config  # whose options are attributes without types
    folder = config.jax_compilation_cache_dir
    if not folder or not config.jax_enable_compilation_cache:
        return None
    try:
        from jaxlib import xla_client

        machine = xla_client.get_topology_for_devices([device]).fingerprint()
    except _CANNOT:
        return None
    depends_on = (
        jax.__version__,
        jaxlib.__version__,
        device.platform,
        device.device_kind,
        machine,
        device.client.platform_version,
        os.environ.get("XLA_FLAGS"),
        sorted(options.items()),
        lowered.as_text(),
    )
    return Path(folder) / f"{_DIGEST(repr(depends_on).encode()).hexdigest()}-every-device"


def _read(path: Path) -> bytes | None:
    """The program that `_write` wrote; None if the file is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, packed = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return zlib.decompress(packed) if _DIGEST(packed).digest() == digest else None


def _write(path: Path, program: bytes) -> None:
    """Writes a program whole or not at all; without it later runs are slower only."""
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
    except _CANNOT:
        return None


def _load(program: bytes | None, devices: Sequence[jax.Device]) -> list[Any] | None:
    """Loads a compiled program on each device; None where this jaxlib or backend cannot."""
    if program is None:
        return None
    loaded = []
    try:
        from jaxlib import xla_client

        for device in devices:
            options = xla_client.CompileOptions()
            options.num_replicas = options.num_partitions = 1
            options.device_assignment = xla_client.DeviceAssignment.create(np.array([[device.id]]))
            only = xla_client.DeviceList((device,))
            with room_for_a_program():
                loaded.append(device.client.deserialize_executable(program, only, options))
    except _CANNOT:
        return None
    return loaded


class _CacheHits(threading.local):
    """Number of programs that this thread got from JAX's persistent cache."""

    count = 0

    def listen(self, event: str, **_: Any) -> None:
        """Counts an event of JAX."""
        if event == "/jax/compilation_cache/cache_hits":
            self.count += 1


@functools.cache
def _cache_hits() -> _CacheHits:
    """The counter, which listens from the first call on."""
    hits = _CacheHits()
    jax.monitoring.register_event_listener(hits.listen)
    return hits
