"""Compilations that a test counts."""

import contextlib

import jax
from jax.experimental.compilation_cache import compilation_cache


@contextlib.contextmanager
def compilations(note=lambda name: name):
    """Collects the compilations inside; programs of earlier tests on disk save none of them.

    Args:
      note: function from the name of a program to what is collected.
    """
    found = []

    def listen(event, *_, fun_name="", **__):
        if event.endswith("backend_compile_duration"):
            found.append(note(fun_name))

    enabled = jax.config.jax_enable_compilation_cache
    _enable(False)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
        _enable(enabled)


def _enable(cache):
    jax.config.update("jax_enable_compilation_cache", cache)
    compilation_cache.reset_cache()  # JAX looks at the option once only
