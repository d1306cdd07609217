"""What is known before training: floors, linear optima, predictions."""
