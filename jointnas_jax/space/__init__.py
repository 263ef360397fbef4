"""The joint search space. Nothing here imports JAX."""

from jointnas_jax.space.arch import ArchSpec, Block, Head, Stage, Stem
from jointnas_jax.space.joint import Candidate, JointSpace, read_arch, read_candidate
from jointnas_jax.space.knobs import Knob
from jointnas_jax.space.recipe import Recipe
from jointnas_jax.space.vectors import PlainSpace

__all__ = [
    "ArchSpec",
    "Block",
    "Candidate",
    "Head",
    "JointSpace",
    "Knob",
    "PlainSpace",
    "Recipe",
    "Stage",
    "Stem",
    "read_arch",
    "read_candidate",
]
