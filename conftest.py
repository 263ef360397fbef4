"""Tests share compiled programs; Python code in the README and the documentation is tested."""

import os

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser

# Programs that compile faster are not worth a file.
CACHED_FROM_SECONDS = 0.2

pytest_collect_file = Sybil(
    # A block that cannot run is `py`: blocks run in any process, where a `skip` is not heard.
    parsers=[PythonCodeBlockParser()],
    patterns=["README.md", "docs/*.md"],
).pytest()


def pytest_configure() -> None:
    """Stores programs where scripts do, for other tests, files, processes and runs.

    Each search and each study compiles its own, which is three quarters of what a small one takes.
    Tests that count compilations do without, see `tests/support/compilations.py`.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # Only now: `tests/conftest.py` says how many devices JAX has.
    import jax

    from jointnas_jax.runtime.cache import cache_folder

    if folder := cache_folder("compiled"):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHED_FROM_SECONDS)
