"""A file is written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from calibrators.whole_file import replacing


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def test_the_new_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with replacing(path) as stream:
        stream.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_of_the_writing_names_the_file_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space") as error, replacing(path) as stream:
        stream.write(b"new")
    assert error.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["other", None])
def test_a_failure_of_the_callers_keeps_its_name(tmp_path: Path, name: str | None) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError, match="Input/output") as error, replacing(path):
        raise OSError(errno.EIO, "Input/output error", name)
    assert error.value.filename == (name or str(path))
    assert list(tmp_path.iterdir()) == []
