"""validate --junit, --html, --annotate, --json: what is written, and what is refused before anything runs."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree as ET

import jsonschema
import onnx
import pytest

from tests.cli.conftest import Run, Tree, refused
from trtbuild import validation
from trtbuild.report import annotate

ALL = ("-o", "report.json", "--junit", "junit.xml", "--html", "report.html", "--annotate", "annotated.onnx")
FILES = ALL[1::2]


@pytest.fixture
def built(run: Run, toy: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert run("build", "toy").code == 0
    return toy


def test_all_reports_of_one_check(run: Run, built: Path) -> None:
    result = run("validate", "toy", *ALL, "--json")
    assert result.code == 0
    document = result.document
    schema = resources.files("trtbuild.report").joinpath("document.schema.json").read_text("utf-8")
    jsonschema.Draft202012Validator(json.loads(schema)).validate(document)
    assert {"build", "passed", "checks", "metric", "outputs", "layers", "first_divergence"} <= set(document)
    root = ET.parse("junit.xml").getroot()
    assert [case.get("name") for case in root.iter("testcase")][: len(document["checks"])] == [
        check["name"] for check in document["checks"]
    ]
    page = Path("report.html").read_text("utf-8")
    assert document["build"] in page
    assert all(f'id="layer-{number + 1}"' in page for number in range(len(document["layers"])))
    onnx.checker.check_model("annotated.onnx")
    assert all(f": {name}" in result.err for name in FILES)


def test_reports_are_written_when_the_gate_says_no(run: Run, built: Path) -> None:
    options = ("--set", "validation.outputs.sqnr_db=500")
    assert run("validate", "toy", *ALL, *options).code == 1
    assert int(ET.parse("junit.xml").getroot().get("failures", "")) == 1
    assert '<header class="failed">' in Path("report.html").read_text("utf-8")


def test_the_text_names_the_pins_to_try(run: Run, built: Path) -> None:
    worst = run("validate", "toy", "--json").document["worst"]
    lines = [line for line in run("validate", "toy").out.splitlines() if line.startswith("pin to try: ")]
    assert {line.partition("  #")[0] for line in lines} == {
        f"pin to try: [[pin]] {row['pin'].splitlines()[1]}" for row in worst if row["pin"]
    }
    assert lines


def test_the_pin_to_try_is_one(run: Run, built: Path, recipe: Callable[..., None]) -> None:
    """Appended to the recipe, it holds the node; and the layer is no longer among the worst."""
    (first, *_) = (row for row in run("validate", "toy", "--json").document["worst"] if row["pin"])
    recipe(f"\n{first['pin']}\n")
    assert len(run("build", "toy", "--json").document["precision"]["pinned"]) == 1
    after = run("validate", "toy", "--json").document
    assert first["pin"] not in {row["pin"] for row in after["worst"]}


def test_same_inputs_same_bytes_and_earlier_reports_are_replaced(run: Run, built: Path) -> None:
    def make() -> list[bytes]:
        result = run("validate", "toy", *ALL, "--json")
        assert result.code == 0
        return [result.out.encode(), *(Path(name).read_bytes() for name in FILES)]

    assert make() == make()


def test_a_bare_models_build(run: Run, toy: Path) -> None:
    shutil.copy(toy / "model.onnx", "model.onnx")
    assert run("build", "model.onnx", "--calib", toy / "shards", "-o", "x.onnx").code == 0
    assert run("validate", "x.onnx", "--samples", toy / "validation", *ALL).code == 0
    assert all(Path(name).is_file() for name in FILES)


def test_a_stored_golden(run: Run, built: Path) -> None:
    assert run("validate", "toy", "--save-golden", "golden.st").code == 0
    result = run("validate", "toy", "--golden", "golden.st", *ALL, "--json")
    assert result.code == 0
    assert result.document["layers"] == []
    assert result.document["caveats"]
    assert "No layers were compared" in Path("report.html").read_text("utf-8")


@pytest.mark.parametrize("option", ["--output", "--junit", "--html", "--annotate"])
@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone/report", "cannot write into gone: No such file"),
        ("/proc/report", "cannot write into /proc"),
        ("engines", "is a folder"),
        ("engines/toy/model.onnx", "would overwrite the model itself"),
        ("engines/toy/recipe.toml", "would overwrite the recipe"),
        ("engines/toy/metric.py", "is there and is no such report; give another name or delete it"),
        ("engines/toy/shards/0.npz", "is there and is no such report"),
    ],
)
def test_no_other_file_is_written_over(
    run: Run, built: Path, tree: Tree, option: str, path: str, words: str
) -> None:
    refused(run, tree, f"{option} {path}", option, path)
    refused(run, tree, words, option, path)


@pytest.mark.parametrize("option", ["--output", "--junit", "--html", "--annotate"])
def test_what_is_no_regular_file_is_left_alone(run: Run, built: Path, option: str) -> None:
    """As /dev/null is: a rename would replace it. Not tested on that itself, which a bug would destroy."""
    os.mkfifo("pipe")
    result = run("validate", "toy", option, "pipe")
    assert (result.code, result.out) == (2, "")
    assert result.errors == [f"error: {option} pipe is no regular file; give a file name"]
    assert Path("pipe").is_fifo()


def test_the_build_is_not_written_over(run: Run, built: Path, tree: Tree) -> None:
    (folder,) = (path.parent for path in (built / "builds").glob("*/manifest.json"))
    refused(run, tree, "would overwrite the build itself", "--annotate", folder / "model.onnx")
    refused(run, tree, "would overwrite the build's manifest", "--html", folder / "manifest.json")


def test_one_file_for_two(run: Run, built: Path, tree: Tree) -> None:
    refused(run, tree, "--html x is the file of --junit", "--junit", "x", "--html", "./x")
    refused(run, tree, "--html x is the file of --save-golden", "--save-golden", "x", "--html", "x")


def test_one_report_is_not_written_over_another(run: Run, built: Path, tree: Tree) -> None:
    assert run("validate", "toy", *ALL).code == 0
    refused(run, tree, "--html junit.xml is there and is no such report", "--html", "junit.xml")
    refused(run, tree, "--junit annotated.onnx is there", "--junit", "annotated.onnx")


def test_somebody_elses_weights(run: Run, built: Path, tree: Tree) -> None:
    Path("a.onnx.data").write_text("weights")
    refused(run, tree, "a.onnx.data would be taken for its weights", "--annotate", "a.onnx")


def test_a_time_that_is_none(run: Run, built: Path, tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    refused(run, tree, "SOURCE_DATE_EPOCH=yesterday is no time")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_the_disk_fills(run: Run, built: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """One line, exit code 3, no half-written file, and an earlier report stays."""
    assert run("validate", "toy", "--html", "report.html").code == 0
    before = Path("report.html").read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "some/file")

    monkeypatch.setattr(validation.store, "write_json", lambda *_: None)
    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr(annotate.files, "save", full)
    for option, name in (
        ("--output", "new.json"),
        ("--html", "report.html"),
        ("--junit", "new.xml"),
        ("--annotate", "new.onnx"),
    ):
        left = set(Path().iterdir())
        result = run("validate", "toy", option, name)
        assert (result.code, result.out) == (3, "")
        assert result.errors == [f"error: {name}: no space left; free some and run again"]
        assert set(Path().iterdir()) == left
        assert run("validate", "toy", option, name, "--json").document["exit_code"] == 3
    assert Path("report.html").read_bytes() == before
