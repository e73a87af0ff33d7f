"""The fewest pins that pass the gate: sensitivity of each node, the search, its journal and its result."""
