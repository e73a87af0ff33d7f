"""What the demo engines promise, measured end to end through the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtbuild.entry import run

QUICK = ("--set", "validation.layer_samples=1", "--json")


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[dict[str, Any], dict[str, Any], int]]:
    """Build and validate an engine; returns the manifest, the verdict and validate's exit code."""

    def build_and_validate(engine: Path, *overrides: str) -> tuple[dict[str, Any], dict[str, Any], int]:
        options = [part for override in overrides for part in ("--set", override)]
        assert run(["build", str(engine), *options, "--json"]) == 0
        manifest = json.loads(capsys.readouterr().out)
        code = run(["validate", str(engine), *QUICK])
        return manifest, json.loads(capsys.readouterr().out), code

    return build_and_validate


def test_ocr_rec_pins_win_back_at_least_half_of_what_int8_loses(
    prepare: Callable[..., Path], check: Callable[..., tuple[dict[str, Any], dict[str, Any], int]]
) -> None:
    engine = prepare("ocr-rec", "--validation", "200", needs=("rapidocr_onnxruntime", "PIL", "font_roboto"))
    _, unpinned, refused = check(engine, "pin=[]")
    manifest, pinned, passed = check(engine)

    assert unpinned["metric"]["golden"] >= 0.97
    lost = unpinned["metric"]["drop"]
    assert lost >= 0.02, "INT8 loses too little here for the pins to show anything"
    assert pinned["metric"]["drop"] <= lost / 2
    assert manifest["precision"]["lowerable"] == 51
    assert 0 < manifest["precision"]["share"] <= 0.20
    assert manifest["audit"]["held"] == len(manifest["precision"]["pinned"])
    assert (refused, passed) == (1, 0)


def test_int8_is_nearly_free_for_filetype(
    prepare: Callable[..., Path], check: Callable[..., tuple[dict[str, Any], dict[str, Any], int]]
) -> None:
    engine = prepare("filetype", "--validation", "100", needs=("magika",))
    manifest, verdict, _ = check(engine)
    assert manifest["audit"]["histogram"]["int8"] == manifest["precision"]["lowerable"] > 0
    assert verdict["metric"]["golden"] >= 0.9
    assert abs(verdict["metric"]["drop"]) <= 0.02
