"""Shards looked through: figures, and the samples that are no good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from calibrators.check import Findings, Flaw, check, specs_of
from calibrators.errors import ShardError
from calibrators.shards import ShardSet

NAN, INF = np.nan, np.inf


def found(folder: Path) -> Findings:
    *_, last = check(ShardSet.open(folder, specs_of(folder)))
    return last


def rows(*values: list[float]) -> np.ndarray:
    return np.array(values, np.float32)


def test_figures_of_each_input_over_all_shards(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=rows([1, 2], [3, -4]), ids=np.array([2**40, 7]))
    np.savez(tmp_path / "b.npz", x=rows([5, 5.5, 6]), ids=np.array([9]))
    result = found(tmp_path)
    assert (result.samples, result.passed) == (3, True)
    x, ids = result.inputs["x"], result.inputs["ids"]
    assert (x.dtype, x.minimum, x.maximum, x.mean) == ("float32", -4, 6, pytest.approx(18.5 / 7))
    assert dict(x.shapes) == {(2,): 2, (3,): 1}
    assert (ids.dtype, ids.minimum, ids.maximum) == ("int64", 7, 2**40)
    assert (x.nan, x.inf) == (0, 0)


def test_nan_and_inf_are_told_by_sample_and_left_out_of_the_figures(tmp_path: Path):
    np.save(tmp_path / "a.npy", rows([1, 2], [NAN, INF], [3, -INF]))
    np.save(tmp_path / "b.npy", rows([NAN, NAN]))
    result = found(tmp_path)
    assert result.nonfinite == [
        Flaw("a:1", "array", "1 NaN"),
        Flaw("a:1", "array", "1 Inf"),
        Flaw("a:2", "array", "1 Inf"),
        Flaw("b:0", "array", "2 NaN"),
    ]
    x = result.inputs["array"]
    assert (x.nan, x.inf, x.minimum, x.maximum, x.mean) == (3, 2, 1, 3, 2)
    assert not result.passed


def test_no_finite_value_at_all(tmp_path: Path):
    np.save(tmp_path / "a.npy", rows([NAN, INF]))
    x = found(tmp_path).inputs["array"]
    assert (x.minimum, x.maximum, x.mean) == (None, None, None)


def test_duplicates_are_named_across_files(tmp_path: Path):
    np.save(tmp_path / "a.npy", rows([1, 2], [3, 4], [1, 2]))
    np.save(tmp_path / "b.npy", rows([3, 4], [1, 2], [5, 6]))
    result = found(tmp_path)
    assert result.duplicates == [["a:0", "a:2", "b:1"], ["a:1", "b:0"]]
    assert not result.passed


def test_duplicates_are_the_same_in_every_input(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=rows([1, 2], [1, 2]), y=np.array([1, 2]))
    assert found(tmp_path).duplicates == []


def test_the_same_bytes_in_another_shape_are_no_duplicate(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(1, 2, 3))
    np.save(tmp_path / "b.npy", np.arange(6, dtype=np.float32).reshape(1, 3, 2))
    assert found(tmp_path).duplicates == []


def test_constant_samples_of_float_inputs(tmp_path: Path):
    np.savez(
        tmp_path / "a.npz",
        x=rows([1, 2], [0.5, 0.5]),
        mask=np.ones((2, 4), np.int64),
        scalar=np.array([1, 2], np.float32),
        empty=np.zeros((2, 0), np.float32),
    )
    result = found(tmp_path)
    assert result.constant == [Flaw("a:1", "x", "constant 0.5")]
    assert not result.passed


def test_other_dtypes(tmp_path: Path):
    arrays = {"flag": np.array([[True, False]]), "half": np.array([[60000, 60000, 1]], np.float16)}
    save_file(arrays, tmp_path / "a.safetensors")
    result = found(tmp_path)
    flag, half = result.inputs["flag"], result.inputs["half"]
    assert (flag.minimum, flag.maximum, flag.mean) == (0, 1, 0.5)
    assert type(flag.minimum) is int  # in JSON a number, not false
    assert half.mean == pytest.approx((2 * float(np.float16(60000)) + 1) / 3)  # not Inf


def test_a_mean_beyond_float64(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([[1e308, 1.5e308]]))
    assert found(tmp_path).inputs["array"].mean is None


def test_shards_without_a_batch_axis(tmp_path: Path):
    specs = specs_of_two(tmp_path)
    *_, result = check(ShardSet.open(tmp_path, specs, may_batch=False))
    assert result.samples == 2
    assert result.duplicates == [["a:0", "b:0"]]
    assert dict(result.inputs["x"].shapes) == {(2, 2): 2}


def specs_of_two(folder: Path):
    for name in ("a", "b"):
        np.savez(folder / f"{name}.npz", x=rows([1, 2], [3, 4]), y=np.array([1, 2, 3]))
    return specs_of(folder)


def test_a_shard_that_changes_meanwhile(tmp_path: Path):
    np.save(tmp_path / "a.npy", rows([1, 2]))
    np.save(tmp_path / "b.npy", rows([3, 4]))
    looked = check(ShardSet.open(tmp_path, specs_of(tmp_path)))
    next(looked)
    np.save(tmp_path / "b.npy", rows([3, 4], [5, 6]))
    with pytest.raises(ShardError, match=r"b\.npy changed after it was checked"):
        next(looked)


def test_damaged_data_behind_a_sound_header(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=rows([1, 2]))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    at = data.index(rows([1, 2]).tobytes())
    data[at] ^= 1
    (tmp_path / "a.npz").write_bytes(bytes(data))
    with pytest.raises(ShardError, match=r"a\.npz is damaged"):
        found(tmp_path)
