"""Sparse neural networks by relaxed variable splitting."""

__version__ = "0.1.0"
