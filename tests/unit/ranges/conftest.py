"""A model that shows what clipping does, and shards on disk."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from trtbuild.model.model import Model

WIDTH = 16384  # one in so many is clipped by the percentile 99.99
OUTLIER = 300.0
TEXT = f"""toy (float[n,{WIDTH}] a, float[n,{WIDTH}] b) => (float[n,4] ya, float[n,4] yb) {{
    ya = MatMul(a, wa) yb = MatMul(b, wb) }}"""


@pytest.fixture
def two_outliers(open_toy: Callable[..., Model]) -> tuple[Model, dict[str, NDArray[np.float32]]]:
    """Inputs a and b of one kind, a normal distribution and in the first channel an outlier, and 24 samples.
    What reads a does not look at the outlier; what reads b looks at little else."""
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((24, WIDTH)).astype(np.float32) for name in "ab"}
    weights = {name: rng.standard_normal((WIDTH, 4)).astype(np.float32) for name in ("wa", "wb")}
    for array in feeds.values():
        array[:, 0] = OUTLIER * rng.uniform(0.5, 1, 24)
    weights["wa"][0] = 0
    weights["wb"][1:] *= 1e-3
    return open_toy(TEXT, weights), feeds
