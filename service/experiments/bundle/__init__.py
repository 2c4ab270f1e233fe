"""Bundles: an experiment as one file, which other installations can import and other tools can read."""

from service.experiments.bundle.archive import FORMAT, Bundle, BundleError, BundleWriter

__all__ = ["FORMAT", "Bundle", "BundleError", "BundleWriter"]
