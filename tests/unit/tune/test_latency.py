"""What pins cost, from a document of bench."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.tune import latency

BODY = "toy (float[n,4] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) y = MatMul(r, w2) }"
WEIGHTS = {"w1": np.ones((4, 4), np.float32), "w2": np.ones((4, 3), np.float32)}
NODES = {
    "MatMul_h": {"fp32": 0.5, "int8": 0.125},
    "Relu_r": {"fp32": 0.0, "int8": 0.0},
    "MatMul_y": {"fp32": 0.25, "int8": 0.375},
}


@pytest.fixture
def model(write_toy: Callable[..., Path]) -> Model:
    return Model.open(write_toy(BODY, WEIGHTS))


@pytest.fixture
def document(model: Model) -> dict[str, Any]:
    """What bench writes, as far as it is read."""
    layers = {
        "nodes": copy.deepcopy(NODES),
        "other": {"fp32": 0, "int8": 1},
        "total": {"fp32": 0.75, "int8": 1.5},
    }
    return {"schema_version": 1, "model": model.sha256, "timed": "", "layers": layers}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a document, or the text of one."""

    def write_file(content: Any) -> Path:
        path = tmp_path / "bench.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write_file


def test_what_pins_cost(
    write: Callable[[Any], Path], document: Any, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    found = latency.load(write(document))
    found.check(model)
    assert capsys.readouterr().err == ""
    assert found.cost_of([]) == 0.0
    assert found.cost_of(["MatMul_h"]) == 0.375
    assert found.cost_of(["Relu_r"]) == 0.0
    assert found.cost_of(["MatMul_y"]) == 0.0, "slower in int8: no time is won back by a pin"
    assert found.cost_of(["MatMul_h", "MatMul_y", "MatMul_h"]) == 0.375


def test_a_node_that_was_not_measured(write: Callable[[Any], Path], document: Any) -> None:
    del document["layers"]["nodes"]["MatMul_y"]
    found = latency.load(write(document))
    with pytest.raises(
        InputError, match=r"bench\.json has no time of node 'MatMul_y'; measure on the GPU with"
    ):
        found.cost_of(["MatMul_h", "MatMul_y"])


def test_of_another_model(write: Callable[[Any], Path], document: Any, model: Model) -> None:
    document["layers"]["nodes"]["Conv_c"] = {"fp32": 1, "int8": 1}
    with pytest.raises(InputError, match=r"of another model: .*model\.onnx has no node 'Conv_c'; measure"):
        latency.load(write(document)).check(model)


def test_of_other_weights(
    write: Callable[[Any], Path], document: Any, model: Model, capsys: pytest.CaptureFixture[str]
) -> None:
    document["model"] = "0" * 64
    latency.load(write(document)).check(model)
    assert "was measured with another file than" in capsys.readouterr().err


WRONG = {
    "empty": ("", "no JSON"),
    "no JSON": ("{", "no JSON"),
    "too deep": ("[" * 100_000, "no JSON"),
    "a list": ("[]", "no document of this version's bench"),
    "another document": ('{"schema_version": 1, "engine": "x"}', "no document of this version's bench"),
    "another version": ('{"schema_version": 2, "model": "", "layers": null}', "schema_version 2, expected 1"),
    "without layers": ('{"schema_version": 1, "model": "", "layers": null}', "made without --layers"),
}


@pytest.mark.parametrize(("text", "words"), WRONG.values(), ids=WRONG)
def test_no_document_of_bench(write: Callable[[Any], Path], text: str, words: str) -> None:
    with pytest.raises(InputError, match=rf"bench\.json.*{words}.*; measure on the GPU with") as caught:
        latency.load(write(text))
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x09\xff\xfe")
    with pytest.raises(InputError, match=r"model\.onnx is no document of bench"):
        latency.load(tmp_path / "model.onnx")


@pytest.mark.parametrize("layers", [{}, [], 3, "x", {"nodes": None}, {"nodes": {}}, {"nodes": ["MatMul_h"]}])
def test_damaged_layers(write: Callable[[Any], Path], document: Any, layers: Any) -> None:
    document["layers"] = layers
    with pytest.raises(InputError, match=r"bench\.json is damaged"):
        latency.load(write(document))


@pytest.mark.parametrize(
    "time", [None, "0.5", True, -0.1, float("nan"), float("inf"), 10**400, [], {"fp32": 1.0}]
)
@pytest.mark.parametrize("engine", ["fp32", "int8"])
def test_damaged_times(write: Callable[[Any], Path], document: Any, engine: str, time: Any) -> None:
    document["layers"]["nodes"] = {"MatMul_h": {"fp32": 1, "int8": 1, engine: time}}
    with pytest.raises(InputError, match=r"bench\.json is damaged"):
        latency.load(write(document))


def test_a_time_is_missing(write: Callable[[Any], Path], document: Any) -> None:
    document["layers"]["nodes"] = {"MatMul_h": {"fp32": 1}}
    with pytest.raises(InputError, match=r"bench\.json is damaged \(KeyError: 'int8'\)"):
        latency.load(write(document))
