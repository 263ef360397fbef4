"""Figures of a study. Reads the workdir only; imports no JAX."""
