"""One study from config to result: the loop, its stages, resume, result."""
