"""--ranges: tables, manifests and caches that are not what they should be; nothing of them is built."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtbuild import ranges_file

Run = Callable[..., Any]
Tree = Callable[[], dict[str, str]]
BUILD = ("build", "toy", "--target", "onnxruntime")
CACHE = "TRT-8501-EntropyCalibration2\n"


@pytest.fixture
def table(run: Run, toy: Path) -> Path:
    """The toy's ranges, written by `calibrate -o`; nothing else is left of that run."""
    assert run("calibrate", "toy", "--target", "onnxruntime", "-o", "ranges.json").code == 0
    for path in (toy / "builds" / "ranges").iterdir():
        path.unlink()
    return Path("ranges.json")


def refused(run: Run, tree: Tree, path: Path | str, words: str) -> None:
    before = tree()
    result = run(*BUILD, "--ranges", path)
    assert (result.code, result.out) == (2, "")
    assert len(result.errors) == 1
    assert words in result.errors[0]
    assert f"--ranges {path}" in result.errors[0], "the file is named"
    document = run(*BUILD, "--ranges", path, "--json").document
    assert document["exit_code"] == 2
    assert tree() == before


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no whole JSON text"),
        (b"\x00\xff\xfe", "is no text; expected a range table (JSON), a build's manifest or a TensorRT"),
        (b"{}", "schema_version None: expected 1"),
        (b"[]", "schema_version None: expected 1"),
        (b"[" * 200_000, "no whole JSON text"),
        (b"TRT-", "no header such as"),
        (CACHE.encode(), "holds no ranges"),
        (f"{CACHE}x: wxyz\n".encode(), "line 2: 'x: wxyz': expected 'tensor: up to 8 hex digits'"),
        (f"{CACHE}x: 7fc00000\n".encode(), "scale nan"),
        (f"{CACHE}other: 3c010204\n".encode(), "was calibrated for another model"),
    ],
)
def test_what_is_no_file_of_ranges(run: Run, toy: Path, tree: Tree, content: bytes, words: str) -> None:
    Path("ranges").write_bytes(content)
    refused(run, tree, "ranges", words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.update(schema_version=2), "schema_version 2: expected 1"),
        (lambda t: t.update(ranges={}), "holds no ranges"),
        (lambda t: t["ranges"]["x"].update(amax=-1), "amax -1"),
        (lambda t: t["ranges"]["x"].update(amax="1"), "expected a number"),
        (lambda t: t["key"].update(model="0" * 64), "was calibrated for another model"),
        (lambda t: t.pop("samples"), "expected exactly"),
    ],
)
def test_a_damaged_table(
    run: Run, table: Path, tree: Tree, change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    document = json.loads(table.read_text())
    change(document)
    table.write_text(json.dumps(document))
    refused(run, tree, table, words)


def test_a_table_that_was_cut_off(run: Run, table: Path, tree: Tree) -> None:
    table.write_text(table.read_text()[:-40])
    refused(run, tree, table, "no whole JSON text")


@pytest.mark.parametrize("path", ["gone.json", "engines"])
def test_no_file(run: Run, toy: Path, tree: Tree, path: str) -> None:
    refused(run, tree, path, "expected a range table (JSON), a build's manifest")


def test_a_file_that_is_too_large(run: Run, table: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges_file, "LARGEST", table.stat().st_size)
    assert run(*BUILD, "--ranges", table, "-o", "x.onnx").code == 0
    monkeypatch.setattr(ranges_file, "LARGEST", table.stat().st_size - 1)
    refused(run, tree, table, "is larger than")


def test_a_table_that_lacks_a_tensor(run: Run, table: Path, tree: Tree) -> None:
    document = json.loads(table.read_text())
    del document["ranges"]["p1"]
    table.write_text(json.dumps(document))
    before = tree()
    result = run(*BUILD, "--ranges", table)
    assert result.code == 2
    assert result.errors == ["error: no calibrated range for tensor 'p1'; calibrate this model again"]
    assert tree() == before


def test_a_table_from_a_pipe(run: Run, table: Path) -> None:
    """As `--ranges <(ssh server cat ranges.json)`: it can be read once."""
    reading, writing = os.pipe()
    os.write(writing, table.read_bytes())
    os.close(writing)
    built = run(*BUILD, "--ranges", f"/dev/fd/{reading}", "--json")
    os.close(reading)
    assert built.code == 0, built.err
    assert built.document["ranges"]["ranges"] == json.loads(table.read_text())["ranges"]


class TestManifests:
    """A build's manifest carries the ranges that it was built with."""

    def test_without_ranges(self, run: Run, toy: Path, tree: Tree) -> None:
        run(*BUILD, "--set", "precision.default=fp32", "-o", "x.onnx")
        refused(run, tree, "x.onnx.json", "is the manifest of a build without ranges: nothing in it is int8")

    def test_with_damaged_ranges(self, run: Run, toy: Path, tree: Tree) -> None:
        run(*BUILD, "-o", "x.onnx")
        manifest = json.loads(Path("x.onnx.json").read_text())
        Path("x.onnx.json").write_text(json.dumps({**manifest, "ranges": 5}))
        refused(run, tree, "x.onnx.json", "schema_version None")

    def test_of_another_model_with_the_same_tensors(self, run: Run, table: Path, tree: Tree) -> None:
        """Ranges that came as a cache know no model, but the build that was made with them does."""
        built = run(*BUILD, "--ranges", f"{table}.cache", "-o", "x.onnx", "--json")
        assert built.document["ranges"]["key"] is None
        assert run(*BUILD, "--ranges", "x.onnx.json").code == 0
        manifest = json.loads(Path("x.onnx.json").read_text())
        manifest["model"]["sha256"] = "0" * 64
        Path("x.onnx.json").write_text(json.dumps(manifest))
        refused(run, tree, "x.onnx.json", "was calibrated for another model")
