"""TensorRT's timing cache, and golden engines, on disk."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtbuild.targets.base import Request
from trtbuild.targets.trt import making
from trtbuild.targets.trt.plan_cache import cached
from trtbuild.targets.trt.timing_cache import cache_file

Requests = Callable[..., Request]


def build(request: Request) -> None:
    making.make(sys.modules["tensorrt"], request)  # type: ignore[arg-type]


@pytest.fixture
def file(tensorrt: Callable[..., Any], tmp_path: Path) -> Path:
    tensorrt("10.3.0")
    return tmp_path / "cache" / "trtbuild" / "timing" / "NVIDIA-GeForce-RTX-4090-10.3.0.cache"


def test_it_is_kept_per_gpu_and_version_and_grows(file: Path, request_of: Requests) -> None:
    build(request_of("gemm", implicit=True))
    first = file.read_bytes()
    build(request_of("gemm", implicit=True))
    assert file.read_bytes() == first
    build(request_of("residual", implicit=True))
    assert len(file.read_bytes()) > len(first)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_where_the_recipe_says(
    tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path, file: Path
) -> None:
    build(request_of("gemm", implicit=True, timing_cache=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == [file.name]
    build(request_of("gemm", implicit=True, timing_cache="none"))
    assert not file.exists()
    assert cache_file(sys.modules["tensorrt"], "none") is None  # type: ignore[arg-type]


@pytest.mark.parametrize("rubbish", [b"rubbish", b"\x00" * 64])
def test_a_damaged_one_is_discarded_and_said(
    rubbish: bytes, file: Path, request_of: Requests, capsys: pytest.CaptureFixture[str]
) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(rubbish)
    build(request_of("gemm", implicit=True))
    said = capsys.readouterr().err
    assert f"timing cache {file} is not of this GPU and TensorRT version, or damaged: discarded" in said
    good = file.read_bytes()
    assert good != rubbish
    build(request_of("gemm", implicit=True))
    assert file.read_bytes() == good
    assert "discarded" not in capsys.readouterr().err


def test_one_of_another_version_is_discarded(
    tensorrt: Callable[..., Any], file: Path, request_of: Requests, capsys: pytest.CaptureFixture[str]
) -> None:
    tensorrt("8.6.1")
    build(request_of("gemm", implicit=True))
    (other,) = file.parent.iterdir()
    tensorrt("10.3.0")
    other.rename(file)
    build(request_of("gemm", implicit=True))
    assert "discarded" in capsys.readouterr().err


def test_one_that_cannot_be_written_fails_nothing(
    file: Path, request_of: Requests, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a-file").write_text("")
    build(request_of("gemm", implicit=True, timing_cache=str(tmp_path / "a-file")))
    said = capsys.readouterr().err
    assert "was not read: Not a directory" in said
    assert "was not stored: " in said


def test_a_golden_plan_is_made_once_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return b"plan %d" % len(made)

    folder = tmp_path / "golden"
    assert cached(folder, {"a": 1}, make) == cached(folder, {"a": 1}, make) == b"plan 1"
    assert cached(folder, {"a": 2}, make) == b"plan 2"
    file = next(path for path in folder.iterdir() if path.read_bytes().endswith(b"plan 1"))
    file.write_bytes(file.read_bytes()[:-1] + b"7")
    capsys.readouterr()
    assert cached(folder, {"a": 1}, make) == b"plan 3"
    assert "is damaged: built again" in capsys.readouterr().err
    assert cached(folder, {"a": 1}, make) == b"plan 3"
    assert cached(None, {"a": 1}, make) == b"plan 4"
    assert len(list(folder.iterdir())) == 2
