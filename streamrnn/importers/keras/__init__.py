"""Keras models read from their files, without Keras."""

from .model import from_keras

__all__ = ["from_keras"]
