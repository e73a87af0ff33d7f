"""Rewriting: the normalised model + PrecisionMap + RangeTable -> the explicit model."""
