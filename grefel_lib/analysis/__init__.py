"""What is computed from predictions, and from a model on faces."""
