"""A double of the `tensorrt` module over networks that TensorRT-RTX really parsed. It builds a description
of an engine instead of an engine, and misbehaves where the real binding does."""

from .module import make

__all__ = ["make"]
