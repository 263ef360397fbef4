"""What `import jointnas_jax as jn` offers: the parts of the system for spaces of the user's own."""
