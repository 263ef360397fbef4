"""Joint search of a network's architecture and its training recipe, in JAX.

    import jointnas_jax as jn

Importing the package is cheap: what it offers is imported when it is first used, JAX with it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jointnas_jax.config import (
        EvolutionConfig,
        PredictorConfig,
        SearchConfig,
        default_config,
    )
    from jointnas_jax.errors import JointNASError
    from jointnas_jax.library.evolution import evolve
    from jointnas_jax.library.objective import Result, Trial, search
    from jointnas_jax.library.predictor import Predictor
    from jointnas_jax.library.pruner import JointNASPruner
    from jointnas_jax.library.sampler import JointNASSampler
    from jointnas_jax.library.space import Space
    from jointnas_jax.library.study import run_study
    from jointnas_jax.library.trials import trials
    from jointnas_jax.models.model import load
    from jointnas_jax.space import Candidate, JointSpace, Knob

__version__ = "0.1.0"

# Name -> the module that has it; one line each, and one above for type checkers.
_HOMES = {
    "Candidate": "space",
    "EvolutionConfig": "config",
    "JointNASError": "errors",
    "JointNASPruner": "library.pruner",
    "JointNASSampler": "library.sampler",
    "JointSpace": "space",
    "Knob": "space",
    "Predictor": "library.predictor",
    "PredictorConfig": "config",
    "Result": "library.objective",
    "SearchConfig": "config",
    "Space": "library.space",
    "Trial": "library.objective",
    "default_config": "config",
    "evolve": "library.evolution",
    "load": "models.model",
    "run_study": "library.study",
    "search": "library.objective",
    "trials": "library.trials",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `{__name__}` has no attribute `{name}`")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
