"""Deciding: rules + graph -> PrecisionMap -> the edges that carry Q/DQ. Nothing here rewrites a graph."""
