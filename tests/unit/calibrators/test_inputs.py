from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from calibrators.errors import CalibratorError, ShardError
from calibrators.formats import Header
from calibrators.inputs import InputSpec, check_headers, sample_axis

F32 = np.dtype("float32")


def spec(name: str, *shape: int | None) -> InputSpec:
    return InputSpec(name, F32, shape)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ([spec("x", None, 3)], (True, None)),
        ([spec("x", None), spec("y", None, None)], (True, None)),
        ([spec("x", 4, 3)], (True, 4)),
        ([spec("x", 1, 3), spec("y", None)], (True, 1)),
        ([spec("x", 4, 3), spec("y", None)], (False, None)),  # y may be of any length, x is four of something
        ([spec("x", 4, 3), spec("y", 2)], (False, None)),
        ([spec("x", None, 3), spec("y")], (False, None)),
    ],
)
def test_what_axis_0_means(inputs, expected):
    assert sample_axis(inputs) == expected


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_that_no_axis_has(length):
    with pytest.raises(CalibratorError, match=r"'x' has shape .*None where dynamic"):
        spec("x", None, length)


def test_counts_the_samples_of_a_batched_model_and_one_otherwise():
    headers = {"x": Header("float32", (5, 3)), "y": Header("float32", (5,))}
    assert check_headers(Path("a"), headers, [spec("x", None, 3), spec("y", None)], True) == 5
    headers = {"x": Header("float32", (4, 3)), "y": Header("float32", ())}
    assert check_headers(Path("a"), headers, [spec("x", 4, 3), spec("y")], False) == 1


@pytest.mark.parametrize(
    ("name", "header", "message"),
    [
        (
            "x",
            Header("float64", (5, 3)),
            r"input 'x' is float64, the model takes float32; .*astype\('float32'\)",
        ),
        ("x", Header(">f4", (5, 3)), "input 'x' is >f4, the model takes float32"),
        ("x", Header("BF16", (5, 3)), "input 'x' is BF16, the model takes float32"),
        (
            "x",
            Header("float32", (3,)),
            r"shape \(3,\), rank 1; the model takes rank 2, \(\?, 3\); axis 0 enum",
        ),
        ("x", Header("float32", (5, 4)), r"shape \(5, 4\): axis 1 is 4, the model takes \(\?, 3\)"),
        ("x", Header("float32", (0, 3)), r"shape \(0, 3\): no samples"),
        ("y", Header("float32", (5,)), r"missing input\(s\) 'x'; extra input\(s\) 'y'; expected exactly 'x'"),
    ],
)
def test_an_array_that_the_model_does_not_take(name, header, message):
    with pytest.raises(ShardError, match="^a.npz: .*" + message):
        check_headers(Path("a.npz"), {name: header}, [spec("x", None, 3)], True)


def test_a_name_that_is_nearly_right_is_suggested():
    headers = {"input_id": Header("float32", (5,)), "mask": Header("float32", (5,))}
    inputs = [spec("input_ids", None), spec("mask", None)]
    with pytest.raises(ShardError, match="is 'input_id' meant to be 'input_ids'\\?"):
        check_headers(Path("a"), headers, inputs, True)


def test_inputs_that_disagree_on_the_number_of_samples():
    headers = {"x": Header("float32", (5, 3)), "y": Header("float32", (6,))}
    with pytest.raises(ShardError, match="disagree on the number of samples: 'x' 5, 'y' 6"):
        check_headers(Path("a"), headers, [spec("x", None, 3), spec("y", None)], True)
