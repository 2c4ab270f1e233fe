"""The normalization layers, built from the `normalization` of a spec."""
