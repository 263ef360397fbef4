"""Memory maps of this process, of which Linux admits so many: XLA:CPU ends the process without.

A compiled program of a CPU device takes a few maps for each of its kernels: the programs of an
envelope 1,000 to 3,000, on every device that they are loaded on. Linux admits 65,530 by default.
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from jointnas_jax.errors import StudyError

_SYSTEM = Path("/proc")
# Of a device, with room for several envelopes.
_OF_A_DEVICE = 8_000
# That one more program may take on one device.
_OF_A_PROGRAM = 6_000

_changed = threading.Condition()
_loading = 0


def devices_with_room(cores: int, system: Path = _SYSTEM) -> int:
    """How many CPU devices may have programs, one for each core at most."""
    limit = _limit(system)
    return cores if limit is None else max(1, min(cores, limit // _OF_A_DEVICE))


@contextlib.contextmanager
def room_for_a_program(system: Path = _SYSTEM) -> Iterator[None]:
    """A place to compile a program in, or to load one on one device.

    Waits while other threads load programs, and there may not be room for another.

    Raises:
      StudyError: there is no room.
    """
    global _loading
    limit = _limit(system)
    with _changed:
        while limit is not None:
            with (system / "self" / "maps").open("rb") as file:
                used = sum(1 for _ in file)
            if used + (_loading + 1) * _OF_A_PROGRAM <= limit:
                break
            if not _loading:
                raise StudyError(
                    f"compiled programs take {used:,} of the {limit:,} memory maps that Linux "
                    "admits, too many to load another; go on with fewer devices "
                    "(JAX_NUM_CPU_DEVICES=4, and --config.study.other_machine), or raise the limit "
                    "(sysctl -w vm.max_map_count=1000000) and repeat the command"
                )
            _changed.wait()
        _loading += 1
    try:
        yield
    finally:
        with _changed:
            _loading -= 1
            _changed.notify_all()


def _limit(system: Path) -> int | None:
    """Maps that a process may have; None where the system does not say."""
    try:
        return int((system / "sys" / "vm" / "max_map_count").read_text())
    except (OSError, ValueError):
        return None
