"""validate --save-golden and --golden: files that cannot be, or are not what they should be."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, Tree, refused
from trtbuild.digest import of_tensors
from trtbuild.golden import stored

GOLDEN = Path("golden.safetensors")


@pytest.fixture
def built(run: Run, toy: Path) -> Path:
    """A build of the toy, and its stored golden outputs."""
    assert run("build", "toy").code == 0
    assert run("validate", "toy", "--save-golden", GOLDEN).code == 0
    return toy


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone/golden.st", "--save-golden gone/golden.st: cannot write into gone: No such file"),
        ("/proc/golden.st", "--save-golden /proc/golden.st: cannot write into /proc"),
        ("engines", "--save-golden engines is a folder"),
        ("engines/toy/model.onnx", "is there and holds no golden outputs"),
        ("engines/toy/recipe.toml", "is there and holds no golden outputs"),
        ("engines/toy/shards/0.npz", "is there and holds no golden outputs"),
        ("weights.safetensors", "is there and holds no golden outputs"),
    ],
)
def test_nothing_else_is_written_over(run: Run, built: Path, tree: Tree, path: str, words: str) -> None:
    save_file({"w": np.zeros(3, np.float32)}, "weights.safetensors")
    refused(run, tree, words, "--save-golden", path)


def test_the_build_is_not_written_over(run: Run, built: Path, tree: Tree) -> None:
    path = next((built / "builds").glob("*/model.onnx"))
    refused(run, tree, "holds no golden outputs", "--save-golden", path)


def test_golden_outputs_and_an_empty_file_are_written_over(run: Run, built: Path) -> None:
    Path("empty").touch()
    for path in (GOLDEN, "empty"):
        assert run("validate", "toy", "--save-golden", path).code == 0
        assert run("validate", "toy", "--golden", path).code == 0


def test_not_both_at_once(run: Run, built: Path, tree: Tree) -> None:
    refused(run, tree, "give one of them", "--golden", GOLDEN, "--save-golden", "again.safetensors")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: b"", "damaged or no file of golden outputs"),
        (lambda data: data[:4], "damaged or no file of golden outputs"),
        (lambda data: data[:-8], "damaged or no file of golden outputs"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "its SHA-256 differs"),
        (lambda data: b"PK\x03\x04" + data, "damaged or no file of golden outputs"),
    ],
)
def test_a_damaged_file(
    run: Run, built: Path, tree: Tree, spoil: Callable[[bytes], bytes], words: str
) -> None:
    GOLDEN.write_bytes(spoil(GOLDEN.read_bytes()))
    refused(run, tree, words, "--golden", GOLDEN)


@pytest.mark.parametrize("path", ["gone.safetensors", "engines"])
def test_no_file(run: Run, built: Path, tree: Tree, path: str) -> None:
    refused(run, tree, "no such file of stored golden outputs", "--golden", path)


def test_a_file_that_does_not_say_enough(run: Run, built: Path, tree: Tree) -> None:
    """Whole, by its own checksum, but not one that `save` wrote."""
    document = {"schema_version": stored.SCHEMA_VERSION, "model": "0"}
    text, arrays = json.dumps(document), {"a": np.zeros(3, np.float32)}
    checksum = stored._checksum(text, [("a", of_tensors(arrays))])
    save_file(arrays, GOLDEN, {stored.DOCUMENT: text, stored.CHECKSUM: checksum})
    refused(run, tree, "it does not say calls, outputs, samples, shards, whole", "--golden", GOLDEN)


def test_other_samples(run: Run, built: Path, tree: Tree) -> None:
    shutil.copytree(built / "validation", "fewer")
    Path("fewer/1.npz").unlink()
    refused(
        run,
        tree,
        "stored for other samples (7) than the 3 in fewer",
        "--golden",
        GOLDEN,
        "--samples",
        "fewer",
    )


def test_another_model(run: Run, built: Path, tree: Tree, model_file: Callable[..., Path]) -> None:
    body = "f = Flatten(x) y = MatMul(f, w)"
    model_file(built / "model.onnx", body, {"w": (192, 3)})
    assert run("build", "toy").code == 0
    refused(run, tree, "was stored for another model", "--golden", GOLDEN)


@pytest.mark.parametrize(
    ("failure", "code"), [(OSError(errno.ENOSPC, "No space left on device"), 3), (KeyboardInterrupt(), 130)]
)
@pytest.mark.parametrize("there", [False, True])
def test_nothing_half_written_is_left(
    run: Run,
    built: Path,
    tree: Tree,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    code: int,
    there: bool,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    before = hashlib.sha256(GOLDEN.read_bytes()).hexdigest()
    if not there:
        GOLDEN.unlink()
    files = tree()
    with monkeypatch.context() as fault:
        fault.setattr(os, "fsync", fail)
        result = run("validate", "toy", "--save-golden", GOLDEN)
    assert result.code == code
    assert len(result.errors) == 1
    assert code != 3 or result.errors[0].startswith(f"error: {GOLDEN}: no space left")
    assert tree() == files
    assert not there or hashlib.sha256(GOLDEN.read_bytes()).hexdigest() == before
