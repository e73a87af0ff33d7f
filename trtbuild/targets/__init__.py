"""What a build is made for: ONNX Runtime (simulation), TensorRT-RTX; and the audit of what they built."""
