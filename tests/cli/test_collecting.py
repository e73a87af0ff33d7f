"""--workers, --cluster, --memory-limit, and a calibration that is cut off."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from trtbuild.collect import checkpoint
from trtbuild.collect.checkpoint import Checkpoint

CALIBRATE = ("calibrate", "toy", "--target", "onnxruntime", "--set", "calibration.method=entropy")


class PowerCutError(BaseException):
    """Nothing that the program could handle."""


@pytest.fixture
def cut_off(run, monkeypatch):
    """Run a command line in which every batch is kept, and after the first one the power fails."""
    monkeypatch.setattr("trtbuild.tables.CALIBRATION_BATCH", 1)
    honest = Checkpoint.add

    def add(self, span, counted=None):
        honest(self, span, counted)
        raise PowerCutError

    def start(*arguments):
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "SECONDS", 0.0)
            patched.setattr(Checkpoint, "add", add)
            with pytest.raises(PowerCutError):
                run(*arguments)

    return start


def ranges(run, *options):
    result = run(*CALIBRATE, *options, "--json")
    assert result.code == 0, result.err
    return result.document["ranges"]


@pytest.mark.parametrize("how", [("--workers", "2"), ("--memory-limit", "1e-6")], ids=" ".join)
def test_the_ranges_are_the_same(run, toy, how):
    expected = ranges(run, "-o", "one.json")
    for folder in (toy / "builds" / "ranges").iterdir():
        folder.unlink()
    assert ranges(run, *how) == expected


def test_build_takes_them_too(run, toy):
    result = run("build", "toy", "--target", "onnxruntime", "--workers", "2", "--memory-limit", "1")
    assert result.code == 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (("--workers", "0"), "0 is not in the range x>=1"),
        (("--memory-limit", "0"), "expected a number above 0"),
        (("--memory-limit", "nan"), "expected a number above 0"),
        (("--memory-limit", "inf"), "expected a number above 0"),
        (("--cluster", "somewhere"), "--cluster somewhere: expected dask://HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_what_makes_no_sense_is_refused(run, toy, how, said):
    result = run(*CALIBRATE, *how)
    assert result.code == 2
    (error,) = result.errors
    assert said in error


def test_a_calibration_that_was_cut_off_is_gone_on_with(run, toy, cut_off):
    cut_off(*CALIBRATE)
    store = toy / "builds" / "ranges"
    (left,) = store.iterdir()
    assert left.suffix == ".partial"
    resumed = ranges(run)
    assert not left.exists()
    for file in store.iterdir():
        file.unlink()
    assert ranges(run) == resumed


def test_another_method_goes_on_with_the_same_counts(run, toy, cut_off):
    cut_off(*CALIBRATE)
    (left,) = (toy / "builds" / "ranges").iterdir()
    assert run(*CALIBRATE[:-1], "calibration.method=mse").code == 0
    assert not left.exists()


def test_a_bare_models_counts_are_beside_its_output(run, toy, cut_off):
    options = ("--calib", toy / "shards", "--target", "onnxruntime", "-o", "out.onnx")
    bare = ("build", toy / "model.onnx", *options)
    cut_off(*bare)
    left = Path(".out.onnx.partial")
    assert left.is_dir()
    assert run(*bare).code == 0
    assert not left.exists()


def test_the_counts_of_other_shards_are_not_gone_on_with(run, toy, cut_off):
    bare = ("calibrate", toy / "model.onnx", "--calib", toy / "shards", *CALIBRATE[2:], "-o", "out.json")
    cut_off(*bare)
    shutil.copy(next((toy / "shards").iterdir()), toy / "shards" / "more.npz")
    result = run(*bare)
    assert result.code == 0
    assert "is of other shards; counting begins anew" in result.err


def test_counts_that_nobody_went_on_with_are_deleted(run, toy):
    old, recent = (toy / "builds" / "ranges" / f"{name}.partial" for name in ("old", "recent"))
    for folder in (old, recent):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    assert run(*CALIBRATE).code == 0
    assert (old.exists(), recent.exists()) == (False, True)


def test_a_model_with_nothing_to_calibrate(run, toy, model_file):
    model_file(toy / "model.onnx", "y = Relu(x)", {})
    result = run(*CALIBRATE)
    assert result.code == 2
    assert "no node can run in int8, so there is nothing to calibrate" in result.err


def test_a_constant_zero_tensor_is_said_and_has_a_scale(run, toy):
    for path in (toy / "shards").iterdir():
        np.savez(path.with_suffix(".npz"), x=np.zeros_like(np.load(path)["x"]))
    result = run(*CALIBRATE, "--json")
    assert result.code == 0
    assert "note: constant zero in every sample: x" in result.err
    assert result.document["ranges"]["x"]["amax"] == 0
    cache = Path(result.document["cache"]).read_text()
    assert f"x: {struct.pack('>f', np.float32(1 / 127)).hex()}" in cache


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written_is_told_first(run, toy, monkeypatch):
    monkeypatch.setattr("trtbuild.calibrate.collect", None)  # not reached
    toy.chmod(0o555)
    result = run(*CALIBRATE)
    toy.chmod(0o755)
    assert result.code == 2
    assert "no permission to write" in result.err
