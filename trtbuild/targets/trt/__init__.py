"""What the TensorRT targets share: parsing, traversal, configuration, building, inspection, running."""
