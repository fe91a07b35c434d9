"""Training: images as tensors, the training loop, accuracy."""
