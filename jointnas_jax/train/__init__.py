"""Training: recipe -> optimizer, the step, the compiled program of one architecture."""
