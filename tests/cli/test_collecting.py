"""--workers, --cluster, --memory-limit, and a calibration that is cut off."""

from __future__ import annotations

import shutil
from pathlib import Path

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
        (("--memory-limit", "0"), "0.0 is not in the range x>0"),
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


def test_the_counts_of_another_model_are_refused(run, toy, cut_off):
    """Somebody copied them."""
    cut_off(*CALIBRATE)
    store = toy / "builds" / "ranges"
    (left,) = store.iterdir()
    shutil.copy(next((toy / "shards").iterdir()), toy / "shards" / "more.npz")
    cut_off(*CALIBRATE)
    (other,) = set(store.iterdir()) - {left}
    shutil.copytree(left, other, dirs_exist_ok=True)
    result = run(*CALIBRATE)
    assert result.code == 2
    (error,) = result.errors
    assert "is a checkpoint of another set of shards; delete it" in error
