"""How far outputs are off, in figures that can be worked out by hand."""

import math

import numpy as np
import pytest

from trtbuild.ranges.error import clearly_less, error, typical

F = np.float32


def test_noise_to_signal() -> None:
    assert error({"y": F([3, 5])}, {"y": F([3, 4])}) == pytest.approx(1 / 25)


def test_the_mean_over_outputs() -> None:
    seen = {"y": F([3, 5]), "k": np.array([1, 2, 3, 4])}
    assert error(seen, {"y": F([3, 4]), "k": np.array([1, 0, 3, 4])}) == pytest.approx((1 / 25 + 1 / 4) / 2)


def test_only_the_outputs_that_were_computed_count() -> None:
    assert error({"y": F([3, 5])}, {"y": F([3, 4]), "early": F([9])}) == pytest.approx(1 / 25)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, object])
def test_what_is_no_float_is_right_or_wrong(dtype: type) -> None:
    seen, expected = np.array([1, 0, 1, 1]).astype(dtype), np.array([1, 1, 1, 1]).astype(dtype)
    assert error({"y": seen}, {"y": expected}) == 0.25


def test_halves_do_not_overflow() -> None:
    y = np.array([60000, 60000], np.float16)
    assert error({"y": y / 2}, {"y": y}) == pytest.approx(0.25)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_loses(bad: float) -> None:
    assert error({"y": F([1, bad])}, {"y": F([1, 2])}) == math.inf


def test_where_the_float_model_has_none_either_it_does_not_count() -> None:
    assert error({"y": F([3, 5, 7])}, {"y": F([3, 4, -math.inf])}) == pytest.approx(1 / 25)


def test_an_output_of_zeros() -> None:
    assert error({"y": F([0, 0, 0, 1])}, {"y": F([0, 0, 0, 0])}) == 0.25
    assert error({"y": F([0, 0])}, {"y": F([0, 0])}) == 0


def test_another_shape_and_nothing_at_all() -> None:
    assert error({"y": F([1, 2, 3])}, {"y": F([1, 2])}) == 1
    assert error({"y": F([])}, {"y": F([])}) == 0


def test_one_sample_that_flips_does_not_decide() -> None:
    flipped, worse = [1e-6] * 7 + [0.3], [1e-4] * 8
    assert typical(flipped) < typical(worse)
    assert np.mean(flipped) > np.mean(worse)
    assert typical(worse) == pytest.approx(1e-4)


def test_typical_of_exact_and_of_ruined_samples() -> None:
    assert typical([0.0, 0.0]) == pytest.approx(0, abs=1e-9)
    assert typical([1e-9, math.inf]) == math.inf


@pytest.mark.parametrize(
    ("errors", "others", "less"),
    [
        ([0.7], [1.0], True),
        ([0.9], [1.0], False),
        ([0.9, 0.89, 0.9], [1.0, 1.0, 1.0], False),  # so few show nothing of chance
        ([0.9, 0.8, 0.7, 1.0], [1.0, 1.0, 1.0, 1.0], True),
        ([0.99, 0.98, 0.99, 0.98], [1.0, 1.0, 1.0, 1.0], True),  # little, but every time
        ([0.1, 1.0, 0.9, 1.2], [1.0, 1.0, 1.0, 1.0], True),  # large, if not every time
        ([0.9, 1.1, 0.8, 1.1], [1.0, 1.0, 1.0, 1.0], False),
        ([1.0, 1.0], [1.0, 1.0], False),
        ([1.1, 1.1], [1.0, 1.0], False),
        ([1e-14, 1e-15], [1e-13, 1e-13], False),  # nothing but float32's noise
        ([0.1, math.inf], [0.5, 0.5], False),
        ([0.1, math.inf], [0.5, math.inf], False),
        ([0.9, 1.2], [0.5, math.inf], True),
    ],
)
def test_what_is_clearly_less(errors: list[float], others: list[float], less: bool) -> None:
    assert clearly_less(errors, others) is less
