"""Shards on disk -> INT8 ranges. A leaf: it imports nothing of trtbuild.

    shards.py      the samples: found, checked (inputs.py) and streamed in batches; formats.py reads one file
    pack.py, write.py, check.py, drift.py    shards made, looked into, and compared with other shards
    histogram.py   the magnitudes of one tensor, counted as they stream by, on the bins of grid.py
    minmax.py, percentile.py, entropy.py, mse.py    histogram -> amax; method.py names and picks one
    scale.py       amax -> scale; int8 rounding exactly as ONNX defines it
    table.py       the ranges of a model, on disk and as a TensorRT calibration cache; compare.py: two of them

Import the modules, not the package: ``import calibrators`` loads nothing, not even numpy.
"""
