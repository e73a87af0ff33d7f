"""A golden runs a sample once, as long as there is room for what it makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from trtbuild.model.model import Model
from trtbuild.targets.base import Runner
from trtbuild.targets.sides import as_given
from trtbuild.targets.wrapped import WrappedSide
from trtbuild.tune.held import HeldSide

TEXT = "g (float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Relu(x) z = Neg(x) }"


class Counting(WrappedSide):
    """A real side that counts its runs."""

    runs = 0

    @contextmanager
    def shipped(self, tensors: Sequence[str]) -> Iterator[Runner]:
        with self._side.shipped(tensors) as active:
            yield _CountingRunner(active, self)

    def showing(self, tensors: Sequence[str]) -> Any:
        return self._side.showing(tensors)


class _CountingRunner:
    def __init__(self, active: Runner, side: Counting) -> None:
        self.name, self._active, self._side = active.name, active, side

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = False) -> Mapping[str, Any]:
        self._side.runs += 1
        return self._active.infer(feed_dict, check_inputs=check_inputs)


def outputs(side: HeldSide, x: Any, tensors: Sequence[str] = ("y",)) -> Mapping[str, Any]:
    with side.shipped(tensors) as active:
        return active.infer({"x": x})


def test_the_same_feeds_are_run_once(open_toy: Callable[..., Model]) -> None:
    counting = Counting(as_given(open_toy(TEXT)))
    side, x = HeldSide(counting), np.arange(-4, 4, dtype=np.float32).reshape(2, 4)
    for _ in range(3):
        np.testing.assert_array_equal(outputs(side, x.copy())["y"], np.maximum(x, 0))
    assert counting.runs == 1
    np.testing.assert_array_equal(outputs(side, -x)["y"], np.maximum(-x, 0))
    assert counting.runs == 2


def test_other_outputs_are_other_results(open_toy: Callable[..., Model]) -> None:
    counting = Counting(as_given(open_toy(TEXT)))
    side, x = HeldSide(counting), np.ones((1, 4), np.float32)
    assert outputs(side, x).keys() == {"y"}
    assert outputs(side, x, ("y", "z")).keys() == {"y", "z"}
    assert counting.runs == 2


def test_what_has_no_room_is_run_again(open_toy: Callable[..., Model]) -> None:
    counting = Counting(as_given(open_toy(TEXT)))
    side = HeldSide(counting, limit=40)  # one sample of 32 bytes
    first, second = np.zeros((2, 4), np.float32), np.ones((2, 4), np.float32)
    for _ in range(2):
        outputs(side, first)
        np.testing.assert_array_equal(outputs(side, second)["y"], second)
    assert counting.runs == 3
