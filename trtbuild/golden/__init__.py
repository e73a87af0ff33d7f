"""Measuring: candidate against golden, layer by layer and by task metric, up to the verdict."""
