"""A study's task: config -> space, costs, budget, default candidate, images."""
