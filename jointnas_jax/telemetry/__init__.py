"""What a run tells while it runs: progress, time left, console, TensorBoard, status."""
