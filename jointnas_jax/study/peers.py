"""The processes of one study on several hosts: who they are, and how they talk.

They talk by the key-value store of JAX's coordination service, which process 0 runs. Whoever is not
heard of for too long is dead, and ends the others: the same command on every host goes on.
"""

import contextlib
import ctypes
import hashlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jaxlib
from jax._src import distributed

from jointnas_jax.config import Config, PodConfig
from jointnas_jax.errors import (
    ConfigError,
    InterruptedStudyError,
    JointNASError,
    StudyError,
    one_line,
)
from jointnas_jax.study.interrupt import Interrupt
from jointnas_jax.study.workdir import differences, plain_config

# Seconds between two signs of life, and between two looks at those of the others.
_BEAT = 0.5
# Bytes of a message: a service of gRPC takes 4 MB.
_PART = 1 << 20
_MEETING = 300  # seconds that one waits for the others in the beginning
_NOT_MET = (
    "`config.executor` = `pod`: the processes do not find each other; start all of them within "
    f"{_MEETING} seconds, and where the environment does not say who they are, name `coordinator`, "
    "`processes` and `process` in `config.pod`"
)
# Seconds that the others wait in the end for process 0, which writes a report; what dies meanwhile
# is noticed earlier.
_REPORTING = 3600
# A C function that takes the number of a signal.
_Handler = ctypes.CFUNCTYPE(None, ctypes.c_int)


class Peers:
    """The processes of a study: this one alone.

    Attributes:
      process: number of this one; process 0 owns the workdir.
      processes: how many there are.
    """

    process, processes = 0, 1

    @property
    def first(self) -> bool:
        """Whether this process owns the workdir."""
        return self.process == 0

    def share(self, name: str, value: Any = None) -> Any:
        """Returns the `value` of process 0 to all; what the others give does not matter.

        Args:
          name: never used before.
          value: such as JSON can hold.
        """
        return value

    def agree(self, name: str, mine: Mapping[str, Any]) -> None:
        """Waits until all have said what they go by; raises `ConfigError` where one differs.

        Args:
          name: of what is compared, never used before.
          mine: such as JSON can hold.
        """


class Connected(Peers):
    """Several processes, this one among them."""

    def __init__(self, settings: PodConfig, interrupt: Interrupt):
        """Waits for all others; JAX may not have been used before.

        Args:
          settings: who they are.
          interrupt: of the run; one that is interrupted interrupts all.

        Raises:
          ConfigError: they do not find each other.
        """
        self._timeout, self._interrupt = settings.timeout, interrupt
        self._client: Any = None
        self._end: dict[str, Any] | None = None  # how this process ended, if it did
        self._listen_to_aborts()
        _connect(settings)
        state = distributed.global_state
        self.process, self.processes = state.process_id, state.num_processes
        self._client, self._coordinator = state.client, state.coordinator_address
        others = (p for p in range(self.processes) if p != self.process)
        self._silent = dict.fromkeys(others, 0.0)  # seconds since one was heard of
        self._ended: set[int] = set()
        self._left = threading.Event()
        self._talking = threading.Thread(target=self._talk, daemon=True)
        self._talking.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        """Makes the devices, which all do at once: they tell each other of them.

        From then on every process trains, compiles and saves for itself, and nothing but this keeps
        Orbax from waiting for the others to save the same. It would find them by JAX's client as
        well, and take a save of theirs for its own: they count them alike.
        """
        jax.local_devices()
        jax.process_count, jax.process_index = lambda *_: 1, lambda *_: 0
        distributed.global_state.client, distributed.global_state.process_id = None, 0

    def share(self, name: str, value: Any = None) -> Any:
        """See `Peers`."""
        if self.first:
            self.put(name, json.dumps(value).encode())
        return json.loads(self.get(name))

    def agree(self, name: str, mine: Mapping[str, Any]) -> None:
        """See `Peers`."""
        if not self.first:
            self.put(f"{name}/{self.process}", json.dumps(mine).encode())
        for process in self._silent if self.first else ():
            other = json.loads(self.get(f"{name}/{process}"))
            there = ("in process 0", f"in process {process}")
            if differ := differences(json.loads(json.dumps(mine)), other, name, there):
                raise ConfigError(
                    f"all processes must have the same {name}, but {differ}; start the same "
                    "command on every host"
                )
        self.share(name)

    def put(self, name: str, data: bytes) -> None:
        """Gives all others something under a name that was never used before."""
        with self._served():
            for start in range(0, len(data), _PART):
                part = data[start : start + _PART]
                self._client.key_value_set_bytes(f"parts/{name}/{start}", part)
            self._client.key_value_set(name, str(len(data)))

    def get(self, name: str) -> bytes:
        """Waits for what a process puts; raises `InterruptedStudyError`."""
        length = int(self._wait(name))
        parts = [self._wait(f"parts/{name}/{start}") for start in range(0, length, _PART)]
        return b"".join(parts)

    def forget(self, name: str) -> None:
        """Removes what is large and was got by all who want it."""
        with self._served():
            self._client.key_value_delete(f"parts/{name}/")

    def names(self, folder: str) -> set[str]:
        """What was put under names that begin with `folder/`, without that."""
        with self._served():
            found = self._client.key_value_dir_get(f"{folder}/")
        return {name.removeprefix(f"{folder}/") for name, _ in found}

    def leave(self, code: int, text: str = "") -> None:
        """Ends together with the others, who are told the exit code and why.

        After a success JAX waits for them when Python ends; after an error that may not happen.
        """
        self._end = {"code": code, "text": text}
        self._left.set()
        distributed.global_state.client = self._client  # again: JAX ends it
        if threading.current_thread() is not self._talking:
            self._talking.join()  # Python may not end while a thread is in JAX
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            self._tell("end")
            if code:
                jax.distributed.shutdown()

    @contextlib.contextmanager
    def _served(self) -> Iterator[None]:
        """Where process 0 does not answer it is dead, of which `_watch` knows more to say."""
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            self._left.wait(self._timeout)
            raise StudyError(f"process 0 does not answer: {one_line(error)}") from error

    def _wait(self, name: str) -> bytes:
        while True:
            try:
                return self._client.blocking_key_value_get_bytes(name, int(1000 * _BEAT))
            except jax.errors.JaxRuntimeError:  # not there yet; `_watch` knows who is dead
                self._interrupt.check()
                time.sleep(_BEAT / 10)

    # -- who lives -------------------------------------------------------------------------------

    def _tell(self, beat: Any) -> None:
        message = json.dumps({"beat": beat, "end": self._end})
        self._client.key_value_set(f"alive/{self.process}", message, allow_overwrite=True)

    def _talk(self) -> None:
        """Tells that this process lives, and hears what the others say, until it leaves."""
        said: dict[int, str] = {}
        while not self._left.wait(_BEAT):
            if self._interrupt.asked():
                self._end = {"code": InterruptedStudyError.exit_code, "text": ""}
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # `_watch` knows
                self._tell(time.monotonic())
                for name, message in self._client.key_value_dir_get("alive/"):
                    process = int(name.removeprefix("alive/"))
                    if process != self.process and said.get(process) != message:
                        said[process], self._silent[process] = message, 0.0
                        self._hear(process, json.loads(message)["end"])

    def _hear(self, process: int, end: dict[str, Any] | None) -> None:
        """Ends as another process did, if it did before its time."""
        if end is None:
            return
        self._ended.add(process)
        if end["code"] == InterruptedStudyError.exit_code:
            if not self._interrupt.asked():
                self._interrupt.ask()
        elif end["code"]:
            _complain(f"process {process}: {end['text']}")
            self.leave(end["code"], end["text"])
            os._exit(end["code"])

    def _watch(self) -> None:
        """Ends this process when another one is dead, unless it did all that it had to."""
        while self._end is None or self._end["code"]:
            start = time.monotonic()
            time.sleep(_BEAT)
            # A process that stood still itself, on a busy machine, has not listened meanwhile.
            listened = min(time.monotonic() - start, 2 * _BEAT)
            for process in self._silent:
                self._silent[process] += listened
                if process not in self._ended and self._silent[process] > self._timeout:
                    self._lose(process)

    def _lose(self, process: int) -> None:
        if self._end is None:
            _complain(
                f"process {process} of {self.processes} is lost, which ends process "
                f"{self.process}; the same command on every host goes on"
            )
        os._exit(self._end["code"] if self._end else 1)

    def _listen_to_aborts(self) -> None:
        """JAX aborts this process when it cannot meet the others, or when process 0 is gone.

        Nothing in JAX turns that off, and Python's own handlers never run in a process that aborts.
        """

        def aborted(_: int) -> None:
            if self._client is None:
                _complain(_NOT_MET)
                os._exit(ConfigError.exit_code)
            if self._left.is_set() or not self._coordinator_lives():
                self._lose(0)
            _complain(
                f"process {self.process} of {self.processes} is aborted, see above; each must be "
                "started once, with a number of its own"
            )

        self._handler = _Handler(aborted)  # kept: C does not know that it is in use
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)

    def _coordinator_lives(self) -> bool:
        host, _, port = self._coordinator.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=2 * _BEAT).close()
        except OSError:
            return False
        return True


@contextlib.contextmanager
def joined(config: Config, interrupt: Interrupt) -> Iterator[Peers]:
    """The processes of a study, which end together.

    Args:
      config: says who they are; the same in all.
      interrupt: of the run.

    Raises:
      ConfigError: they do not find each other, or differ in config or versions.
    """
    if config.executor != "pod":
        yield Peers()
        return
    peers = Connected(config.pod, interrupt)
    try:
        peers.agree("versions", versions())
        peers.agree("config", plain_config(config))
        peers.begin()
        yield peers
    except BaseException as error:
        peers.leave(getattr(error, "exit_code", JointNASError.exit_code), one_line(error))
        raise
    peers.leave(0)


def _complain(text: str) -> None:
    """Tells why a process ends that cannot end by an exception."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """Of what may make two processes search or talk differently."""
    sources = sorted(Path(__file__).parent.parent.rglob("*.py"))
    code = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "code": code.hexdigest()[:8]}


def _connect(settings: PodConfig) -> None:
    """Meets the other processes; raises `ConfigError`."""
    # It takes SIGTERM for itself, which must save the study.
    jax.config.update("jax_enable_preemption_service", False)
    named = (settings.coordinator, settings.processes, settings.process)
    if settings.process == 0:
        _check_port(int(settings.coordinator.rpartition(":")[2]))
    try:
        jax.distributed.initialize(
            *(named if settings.coordinator else ()),
            initialization_timeout=_MEETING,
            heartbeat_timeout_seconds=int(2 * settings.timeout) + 60,  # `_watch` is first
            shutdown_timeout_seconds=_REPORTING,
        )
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"{_NOT_MET}: {one_line(error)}") from error


def _check_port(port: int) -> None:
    """Raises `ConfigError` if a port is in use: JAX would crash."""
    try:
        socket.create_server(("", port)).close()
    except OSError as error:
        raise ConfigError(
            f"port {port} of `config.pod.coordinator` cannot be used: {error.strerror}; name "
            "another one on every host"
        ) from error
