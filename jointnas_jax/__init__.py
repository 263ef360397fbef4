"""Joint search of a network's architecture and its training recipe, in JAX.

Importing the package is cheap: what it offers is imported when it is first used, JAX with it.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Name -> the module that has it.
_HOMES = {
    "load": "study.model",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
