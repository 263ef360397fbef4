"""The processes of one run on several hosts, by `jax.distributed`, and what they tell each other.

All make the same calls in the same order. In a run of one process these calls return what they get.
"""

import collections
import contextlib
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from jax.experimental import multihost_utils

from jointnas_jax.errors import ConfigError, InterruptedStudyError, JointNASError, one_line

_MEETING = 300  # seconds that a process waits for the others in the beginning
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class PeerError(JointNASError):
    """An error without a message to the others: one of them sent it, or they would not hear it."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


class PeerInterruptedError(InterruptedStudyError):
    """A signal ended another process."""


@contextlib.contextmanager
def connected(coordinator: str, *, processes: int, process: int, timeout: float) -> Iterator[None]:
    """Connects the processes inside; call it before anything that makes JAX's devices.

    An error inside ends all: the others save what they train, and raise it at their next message.
    Where a process sends no heartbeat for the timeout, JAX ends the others.

    Args:
      coordinator: `host:port` of process 0; "": the environment says it, and the next two.
      processes: number of processes.
      process: number of this one, from 0.
      timeout: seconds.

    Raises:
      ConfigError: process 0 cannot use its port, or the environment says nothing.
    """
    named: dict[str, Any] = {}
    if coordinator:
        named = dict(coordinator_address=coordinator, num_processes=processes, process_id=process)
        if coordinator.rpartition(":")[0] in _LOCAL:
            named["coordinator_bind_address"] = coordinator
    try:
        if process == 0:  # JAX would crash
            socket.create_server(("", int(coordinator.rpartition(":")[2]))).close()
        jax.distributed.initialize(
            **named,
            initialization_timeout=_MEETING,
            heartbeat_timeout_seconds=math.ceil(timeout),
            shutdown_timeout_seconds=math.ceil(timeout),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            "`config.executor` = `pod`: the processes cannot be connected; where the environment "
            "does not say who they are, name `coordinator` (with a free port), `processes` and "
            f"`process` in `config.pod`: {one_line(error)}"
        ) from error
    _check_devices()
    try:
        yield
        gather(None)  # process 0 may still have something to write
    except BaseException as error:
        if not isinstance(error, (PeerError, PeerInterruptedError)):
            preempt()  # those that train save, and hear of the error
            _exchange((getattr(error, "exit_code", 1), one_line(error)), failed=True)
        if isinstance(error, InterruptedStudyError):
            jax.distributed.shutdown()
        raise
    jax.distributed.shutdown()


def _check_devices() -> None:
    """Raises `ConfigError` if the processes have different numbers of devices, unfit to message."""
    counts = collections.Counter(device.process_index for device in jax.devices())
    for process, count in counts.items():
        if count != counts[0]:
            jax.distributed.shutdown()
            raise ConfigError(
                f"all processes must have the same machine, but `machine.devices` is {counts[0]} "
                f"in process 0, {count} in process {process}"
            )


def preempt() -> None:
    """Has all processes save and end, as where the cluster takes this one away."""
    os.kill(os.getpid(), signal.SIGTERM)


def is_first() -> bool:
    """Whether this process owns the workdir."""
    return jax.process_index() == 0


def share(value: Any) -> Any:
    """Returns the `value` of process 0, such as JSON can hold, to all."""
    return gather(value if is_first() else None)[0]


def gather(value: Any) -> list[Any]:
    """Returns the values of all processes, such as JSON can hold, to all.

    Raises:
      PeerError: another process failed.
      PeerInterruptedError: a signal ended another process.
    """
    if jax.process_count() == 1:
        return [value]
    values, failed = _exchange(value)
    if not failed.any():
        return values
    process = int(failed.argmax())
    code, text = values[process]
    if code == InterruptedStudyError.exit_code:
        raise PeerInterruptedError
    raise PeerError(f"process {process}: {text}", code)


def broadcast(arrays: Any, source: int) -> Any:
    """Returns the tree of `arrays` of the process `source` to all."""
    mine = jax.process_index() == source
    data = msgpack_serialize(arrays) if mine else b""
    with _losing_others():
        length = int(multihost_utils.broadcast_one_to_all(np.int32(len(data)), is_source=mine))
        row = multihost_utils.broadcast_one_to_all(_row(data, length), is_source=mine)
    return msgpack_restore(row[:length].tobytes())


def _exchange(value: Any, failed: bool = False) -> tuple[list[Any], np.ndarray]:
    """The values of all processes, and which of them say why their process failed, `bool[P]`."""
    data = json.dumps(value).encode()
    with _losing_others():
        lengths = multihost_utils.process_allgather(np.int32(-len(data) if failed else len(data)))
        rows = multihost_utils.process_allgather(_row(data, abs(lengths).max()))
    sizes = abs(lengths)
    texts = [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]
    return [json.loads(text) for text in texts], lengths < 0


def _row(data: bytes, length: int) -> np.ndarray:
    """Bytes filled up to the next power of two: a program is compiled for each size."""
    return np.frombuffer(
        data.ljust(max(1024, 1 << (int(length) - 1).bit_length()), b"\0"), np.uint8
    )


@contextlib.contextmanager
def _losing_others() -> Iterator[None]:
    """Where another process ends in the middle of a message, or has ended before."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise PeerError(f"another process is lost: {one_line(error)}", 1) from error


class SyncPoint:
    """Whether all processes have reached the step at which they save, after a signal to one.

    JAX agrees on a step that lies ahead of all of them, so no step may be left out. Called by
    several threads.
    """

    def __init__(self, seconds: float):
        """Begins to count at the same moment in all processes.

        Args:
          seconds: length of a step, for processes that train different things; 0: each call is a
            step, for processes that train one thing together.
        """
        gather(None)
        self._seconds = seconds
        self._start = time.monotonic()
        self._step = 0
        self._reached = False
        self._lock = threading.Lock()

    def __call__(self) -> bool:
        with self._lock:
            now = self._step + 1
            if self._seconds:
                now = int((time.monotonic() - self._start) / self._seconds)
            while self._step < now and not self._reached:
                self._step += 1
                self._reached = multihost_utils.reached_preemption_sync_point(self._step)
            return self._reached
