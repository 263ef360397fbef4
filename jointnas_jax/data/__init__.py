"""Image datasets: TFDS sources, on-device batches, augmentation."""
