"""The demo engines through the command line, on TensorRT. What came out is kept under $OUT."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtbuild.entry import run
from trtbuild.targets.trt import inspector

pytestmark = pytest.mark.gpu

ENGINES = {
    "filetype": ("magika",),
    "ocr-rec": ("rapidocr_onnxruntime", "PIL", "font_roboto"),
}
Json = dict[str, Any]


@pytest.fixture(scope="module", params=ENGINES)
def prepared(request: pytest.FixtureRequest, prepare: Callable[..., Path]) -> Path:
    return prepare(request.param, "--validation", "100", needs=ENGINES[request.param])


@pytest.fixture
def engine(prepared: Path, tmp_path: Path) -> Path:
    """A copy of a prepared engine, called as it is."""
    return Path(shutil.copytree(prepared, tmp_path / prepared.name.rstrip("0123456789")))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The engine inspector's own texts, as they come."""
    texts: list[str] = []
    honest = inspector.read

    def read(information: str, *rest: Any) -> Any:
        texts.append(information)
        return honest(information, *rest)

    monkeypatch.setattr(inspector, "read", read)
    return texts


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Json]]:
    """Run a command with --json; its exit code and its document."""

    def call(*arguments: object) -> tuple[int, Json]:
        capfd.readouterr()
        code = run([*map(str, arguments), "--json"])
        return code, json.loads(capfd.readouterr().out)

    return call


def keep(out: Path, name: str, document: Any) -> None:
    (out / name).write_text(document if isinstance(document, str) else json.dumps(document, indent=1))


def test_build_inspect_validate(
    engine: Path, cli: Callable[..., tuple[int, Json]], seen: list[str], out: Path
) -> None:
    code, built = cli("build", engine, "--target", "tensorrt")
    for text in seen:
        keep(out, f"inspector-{engine.name}.json", text)
    assert code == 0, built
    assert built["audit"]["lost"] == []
    assert built["audit"]["held"] == len(built["precision"]["pinned"])
    assert built["audit"]["histogram"]["int8"] > 0

    code, inspected = cli("inspect", engine / "builds" / built["key"])
    keep(out, f"inspect-{engine.name}.json", inspected)
    assert code == 0
    assert inspected["audit"] == built["audit"]

    code, verdict = cli("validate", engine, "--set", "validation.layer_samples=2")
    keep(out, f"verdict-{engine.name}.json", verdict)
    assert code in (0, 1), verdict  # what the gate says is a result; that it can say it is the test
    assert verdict["passed"] == (code == 0)
    assert verdict["metric"]["golden"] > 0.9
    assert verdict["metric"]["samples"] == 100


def test_fp32_passes_the_gate(engine: Path, cli: Callable[..., tuple[int, Json]]) -> None:
    code, built = cli(
        "build", engine, "--target", "tensorrt", "--set", "precision.default=fp32", "--set", "pin=[]"
    )
    assert code == 0, built
    code, verdict = cli("validate", engine, "--set", "validation.layer_samples=1")
    assert code == 0, verdict


def test_what_a_jetson_does(engine: Path, cli: Callable[..., tuple[int, Json]], tmp_path: Path) -> None:
    """Ranges and golden outputs from here, as files; then a build and a check from these alone."""
    ranges, golden = tmp_path / "ranges.json", tmp_path / "golden.safetensors"
    build = ("build", engine, "--target", "tensorrt", "--ranges", ranges)
    assert cli("calibrate", engine, "--target", "tensorrt", "-o", ranges)[0] == 0
    assert cli(*build)[0] == 0
    _, here = cli("validate", engine, "--save-golden", golden)
    shutil.rmtree(engine / "shards")
    shutil.rmtree(engine / "builds")

    code, built = cli(*build)
    assert code == 0, built
    code, there = cli("validate", engine, "--golden", golden)
    assert code in (0, 1), there
    assert there["metric"]["golden"] == here["metric"]["golden"]
    assert there["metric"]["candidate"] == pytest.approx(here["metric"]["candidate"], abs=0.05)
