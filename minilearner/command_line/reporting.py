"""The report of a training, from its saved predictions."""
