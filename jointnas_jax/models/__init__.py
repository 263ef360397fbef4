"""Trained networks: load, export, import, metadata."""
