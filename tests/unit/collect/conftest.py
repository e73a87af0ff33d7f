"""A small network over samples of two shapes, and what its histograms must be."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from calibrators.histogram import Histogram
from calibrators.shards import ShardSet

RANDOM = np.random.default_rng(1)
WEIGHTS = {name: RANDOM.standard_normal((4, 4)).astype(np.float32) for name in ("w1", "w2")}
TEXT = """toy (float[{n},t,4] x) => (float[{n},t,4] y) {{
    h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) y = Add(g, x) }}"""
TENSORS = ("x", "r", "g")
SHAPES = ((7, 3, 4), (5, 3, 4), (9, 2, 4))  # of the shards: samples, steps, channels


@pytest.fixture
def model(open_toy):
    return open_toy(TEXT.format(n="n"), WEIGHTS)


@pytest.fixture
def write_shards(tmp_path):
    """Arrays of x into a folder of shards, one file each."""
    numbers = itertools.count()

    def write(model, arrays):
        folder = tmp_path / f"shards{next(numbers)}"
        folder.mkdir()
        for index, array in enumerate(arrays):
            np.save(folder / f"{index:04}.npy", array)
        return ShardSet.open(folder, model.inputs)

    return write


@pytest.fixture
def arrays():
    random = np.random.default_rng(2)
    sizes = 10 ** random.uniform(-2, 2, len(SHAPES))
    return [
        (size * random.standard_normal(shape)).astype(np.float32)
        for size, shape in zip(sizes, SHAPES, strict=True)
    ]


@pytest.fixture
def shards(model, arrays, write_shards):
    return write_shards(model, arrays)


@pytest.fixture
def expected(model, arrays, run):
    """The histograms of TENSORS, sample by sample, without any of the package's machinery."""
    from trtbuild.rewrite.cut import with_outputs

    histograms = {tensor: Histogram() for tensor in TENSORS}
    shown = with_outputs(model.normalised, [tensor for tensor in TENSORS if tensor != "x"])
    for array in arrays:
        for tensor, values in {"x": array, **run(shown, {"x": array})}.items():
            histograms[tensor].update(values)
    return histograms
