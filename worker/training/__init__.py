"""The training loop, its optimizer, its evaluation, and what it measures of the normalization layers."""
