"""Runs a study: config -> search -> trained winners, result and figures in a workdir."""
