"""What is written: the workdir, its lock and provenance, trials, weights."""
