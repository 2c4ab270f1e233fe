"""The Ray actor of a training worker, and the training process that it controls."""
