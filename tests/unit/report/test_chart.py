"""Where the drawings put things."""

import math
import re

import pytest

from trtbuild.report import chart


def row(sqnr_db, precision="int8", max_abs=1.0, nan=0, **more):
    return {
        "difference": {"sqnr_db": sqnr_db, "max_abs": max_abs, "nonfinite_unmatched": nan},
        "precision": precision,
        **more,
    }


def test_places_are_in_order_and_to_scale():
    found = chart.along([row(40.0), row(30.0), row(10.0)], 20.0)
    xs, ys = ([getattr(point, axis) for point in found.points] for axis in "xy")
    assert xs == sorted(set(xs))
    assert chart.LEFT < xs[0] < xs[-1] < chart.RIGHT
    assert ys[1] - ys[0] == pytest.approx((ys[2] - ys[0]) / 3, abs=0.1)
    assert ys[1] < found.limit < ys[2]
    ticks = {label: y for y, label in found.ticks}
    assert (ticks["40"], ticks["10"]) == (ys[0], ys[2])


def test_equal_and_lost_have_lanes_of_their_own():
    found = chart.along([row(None, max_abs=0.0), row(None), row(-25.0), row(140.0)], 20.0)
    equal, lost, low, high = (point.y for point in found.points)
    assert equal < chart.TOP <= high < low <= chart.BOTTOM < lost
    assert len(found.ticks) <= 10


def test_nan_is_never_drawn_as_equal():
    found = chart.along([row(None, max_abs=0.0, nan=1), row(60.0, nan=1), row(-25.0)], 20.0)
    nan, beside, low = (point.y for point in found.points)
    assert nan == beside > low


def test_what_was_not_compared_leaves_a_gap():
    gone = {"difference": None, "precision": "fp32"}
    found = chart.along([row(30.0), gone, row(30.0)], 20.0)
    assert [point.number for point in found.points] == [0, 2]
    assert found.points[1].x == chart.along([row(30.0)] * 3, 20.0).points[2].x
    assert chart.along([gone], 20.0) is None
    assert chart.along([], 20.0) is None


def test_precision_shows_in_the_height_too():
    found = chart.along([row(30.0, "int8"), row(30.0, "fp16"), row(30.0, "fp32")], 20.0)
    bars = [point.bar for point in found.points]
    assert bars == sorted(set(bars))


def test_noise_is_drawn_where_it_is_known():
    noise = {"sqnr_db": 80.0, "max_abs": 1e-6}
    found = chart.along([row(90.0, noise=noise), row(40.0)], 20.0)
    assert len(found.noise.split()) == 1
    assert found.points[0].y < float(found.noise.partition(",")[2]) < found.points[1].y
    assert chart.along([row(40.0)], 20.0).noise is None


def test_noise_far_from_every_error_does_not_squeeze_the_errors():
    floors = [{"sqnr_db": value, "max_abs": 1e-6 if value else 0.0} for value in (150.0, None, 32.0, -90.0)]
    rows = [row(value, noise=noise) for value, noise in zip((30.0, 10.0, 25.0, 5.0), floors, strict=True)]
    found = chart.along(rows, 20.0)
    ys = [float(point.partition(",")[2]) for point in found.noise.split()]
    assert ys[:2] == [chart.EQUAL_Y] * 2
    assert chart.TOP < ys[2] < found.points[0].y, "near enough to be drawn to scale"
    assert ys[3] == chart.BOTTOM
    assert [label for _, label in found.ticks] == ["0", "10", "20", "30", "40"]


@pytest.mark.parametrize("count", [1, 7, 60, 500, 4000])
def test_numbers_are_few_whatever_the_size(count):
    found = chart.along([row(30.0)] * count, 20.0)
    assert 1 <= len(found.numbers) <= 10
    assert found.numbers[0][1] == "1"


def test_bars():
    found = chart.bars({"edges": [-1.0, 0.0, 1.0], "golden": [0, 99], "candidate": [99, 9]})
    places = [tuple(map(float, pair)) for pair in re.findall(r"([\d.]+) ([\d.]+)", found.golden)]
    assert places[1][1] == chart.HISTOGRAM_HEIGHT
    assert places[3][1] == 4
    (half,) = {
        y
        for x, y in (map(float, p) for p in re.findall(r"([\d.]+) ([\d.]+)", found.candidate))
        if x == 320 and y < 110
    }
    assert half == pytest.approx(110 - 106 * math.log(10) / math.log(100), abs=0.1)
    assert (found.low, found.high) == (-1.0, 1.0)
    assert chart.bars({"edges": [0.0, 1.0], "golden": [0], "candidate": [0]}).golden
