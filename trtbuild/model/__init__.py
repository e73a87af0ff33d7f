"""Reading ONNX: load and check the file, normalise the graph, find patterns in it."""
