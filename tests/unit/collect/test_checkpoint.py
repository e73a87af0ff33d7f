"""A calibration that is cut off goes on where it was, and ends with the same counts."""

import errno
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from calibrators.histogram import Histogram
from calibrators.shards import ShardSet
from tests.unit.collect.conftest import TENSORS, TEXT, WEIGHTS
from trtbuild.collect import checkpoint as module
from trtbuild.collect.collect import Options, collect


class CutOffError(Exception):
    """What stops a calibration in the middle."""


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)


@pytest.fixture
def cut_off(monkeypatch, tmp_path):
    """Collect until a number of batches is done; returns the folder of checkpoints that is left."""

    def start(model, shards, after, batch=2, **options):
        honest = module.Checkpoint.add
        left = iter(range(after))

        def add(self, span, counted=None):
            self._cost = 0.0  # writing takes longer than counting here
            honest(self, span, counted)
            if next(left, None) is None:
                raise CutOffError

        folder = tmp_path / "partial"
        with monkeypatch.context() as patched:
            patched.setattr(module.Checkpoint, "add", add)
            with pytest.raises(CutOffError):
                collect(model, shards, TENSORS, batch, Options(**options, checkpoints=folder))
        return folder

    return start


def runs(monkeypatch):
    """How many batches are run from now on."""
    counted = []
    honest = module.Checkpoint.add

    def add(self, span, counts=None):
        counted.extend(range(*span))
        honest(self, span, counts)

    monkeypatch.setattr(module.Checkpoint, "add", add)
    return counted


@pytest.mark.parametrize("after", [0, 3, 9])
@pytest.mark.parametrize(("before", "workers"), [(1, 1), (1, 2), (2, 1)])
def test_it_goes_on_where_it_was(model, shards, expected, cut_off, monkeypatch, after, before, workers):
    folder = cut_off(model, shards, min(after, 3) if before > 1 else after, workers=before)
    counted = runs(monkeypatch)
    assert collect(model, shards, TENSORS, 2, Options(workers=workers, checkpoints=folder)) == expected
    assert 0 < len(counted) < len(shards.batch_sizes(2))


def test_each_group_of_tensors_has_its_own(model, shards, expected, cut_off, monkeypatch):
    memory = 2 * 48  # x and r, then g
    folder = cut_off(model, shards, 25, memory=memory)
    assert len(list(folder.iterdir())) == 2
    counted = runs(monkeypatch)
    assert collect(model, shards, TENSORS, 2, Options(memory=memory, checkpoints=folder)) == expected
    assert counted
    assert max(counted) < 21


def test_a_finished_group_is_not_run_again(model, shards, expected, tmp_path, monkeypatch):
    groups = Options(memory=2 * 48, checkpoints=tmp_path / "partial")
    collect(model, shards, TENSORS, 2, groups)
    counted = runs(monkeypatch)
    assert collect(model, shards, TENSORS, 2, groups) == expected
    assert len(counted) < len(shards.batch_sizes(2))


@pytest.mark.parametrize("what", ["another model", "other shards", "other tensors, batches or versions"])
def test_what_is_of_something_else_is_not_gone_on_with(
    open_toy, model, arrays, shards, write_shards, cut_off, capsys, what
):
    folder, batch = cut_off(model, shards, 2), 2
    (kept,) = folder.iterdir()
    if what == "another model":
        model = open_toy(TEXT.format(n="n"), {**WEIGHTS, "w1": WEIGHTS["w2"]})
    elif what == "other shards":
        shards = write_shards(model, [arrays[0] + 1, *arrays[1:]])
    else:
        batch = 3
    expected = collect(model, shards, TENSORS, batch)
    if batch == 3:
        (other,) = set(cut_off(model, shards, 2, batch=3).iterdir()) - {kept}
        kept.replace(other)
    capsys.readouterr()
    assert collect(model, shards, TENSORS, batch, Options(checkpoints=folder)) == expected
    assert f"is of {what}; counting begins anew" in capsys.readouterr().err


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data[:200] + bytes(byte ^ 1 for byte in data[200:260]) + data[260:],
        lambda data: data.replace(b'"trtbuild.checkpoint": 1', b'"trtbuild.checkpoint": 7'),
    ],
    ids=["cut off", "empty", "other bytes", "another version"],
)
def test_a_damaged_one_is_not_gone_on_with(model, shards, expected, cut_off, capsys, harm):
    folder = cut_off(model, shards, 2)
    (path,) = folder.iterdir()
    path.write_bytes(harm(path.read_bytes()))
    capsys.readouterr()
    assert collect(model, shards, TENSORS, 2, Options(checkpoints=folder)) == expected
    assert f"note: {path} is no whole checkpoint (" in capsys.readouterr().err


@pytest.mark.parametrize("done", [[[0, 0]], [[2, 1]], [[0, 2], [1, 3]], [[1, 2], [0, 1]], [[-1, 1]], [0, 1]])
def test_spans_that_no_checkpoint_has(done):
    with pytest.raises(module.DAMAGED):
        module._spans(done)


def test_a_file_in_the_folders_place_stops_nothing(model, shards, expected, tmp_path, capsys):
    (tmp_path / "partial").write_text("hi")
    assert collect(model, shards, TENSORS, 2, Options(checkpoints=tmp_path / "partial")) == expected
    assert "cannot be written" in capsys.readouterr().err
    assert (tmp_path / "partial").read_text() == "hi"


def test_a_full_disk_stops_nothing(model, shards, expected, tmp_path, monkeypatch, capsys):
    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    folder = tmp_path / "partial"
    assert collect(model, shards, TENSORS, 2, Options(checkpoints=folder)) == expected
    assert list(folder.iterdir()) == []
    said = [line for line in capsys.readouterr().err.splitlines() if "cannot be written" in line]
    assert len(said) == 1
    assert "No space left on device" in said[0]


def test_it_is_written_now_and_then_only(model, shards, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 3600)
    collect(model, shards, TENSORS, 1, Options(checkpoints=tmp_path / "partial"))
    assert not (tmp_path / "partial").exists()


KILLED = """
import sys
from pathlib import Path
from calibrators.shards import ShardSet
from trtbuild.collect import checkpoint
from trtbuild.collect.collect import Options, collect
from trtbuild.model.model import Model
checkpoint.SECONDS = 0.0
model, shards, folder, workers = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
opened = Model.open(model)
how = Options(workers=workers, checkpoints=folder)
collect(opened, ShardSet.open(shards, opened.inputs), ("x", "r", "g"), 1, how)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_it_resumes_and_ends_with_the_same_counts(model, write_shards, tmp_path, monkeypatch, workers):
    random = np.random.default_rng(4)
    shards = write_shards(model, [random.standard_normal((3000, 2, 4)).astype(np.float32)])
    folder = tmp_path / "partial"
    command = [sys.executable, "-c", KILLED, model.path, shards.files[0].parent, folder, str(workers)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True) as process:
        deadline = time.monotonic() + 60
        while not list(folder.glob("[!.]*")) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was through before it was killed"
    counted = runs(monkeypatch)
    opened = ShardSet.open(shards.files[0].parent, model.inputs)
    resumed = collect(model, opened, TENSORS, 1, Options(checkpoints=folder))
    assert 0 < len(counted) < 3000
    whole = Histogram()
    whole.update(np.load(shards.files[0]))
    assert resumed["x"] == whole
    assert resumed == collect(model, opened, TENSORS, 1)
