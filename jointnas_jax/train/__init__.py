"""Training: recipe -> optimizer, the step, compiled programs, the images they train on."""
