"""ONNX to TensorRT engines: calibrated INT8, proven pins, and a golden diff of every layer.

Importing this package loads nothing heavy. The Python API is `trtbuild.pipeline`.
"""

__version__ = "0.1.0"
