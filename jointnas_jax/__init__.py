"""Joint search of a network's architecture and its training recipe, in JAX."""

__version__ = "0.1.0"
