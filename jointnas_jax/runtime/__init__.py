"""The process that runs: JAX's set-up, the compiler, interrupts, child processes, the cache."""
