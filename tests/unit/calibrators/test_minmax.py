import numpy as np

from calibrators import minmax
from calibrators.histogram import Histogram


def test_is_the_exact_largest_magnitude():
    x = np.linspace(0, 1, 100_000, dtype=np.float32)
    x[5] = -3.3000001
    histogram = Histogram()
    histogram.update(x)
    assert minmax.amax(histogram) == float(np.float32(3.3000001))
