"""`bench --layers` on target tensorrt: real parsing, doubles of the builder, of the runtime and of libcudart.

Nothing here tells how long anything takes on a GPU: the doubles' layers take 4 ms in float32 and 1 in int8.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.targets.cudart_double import Library
from trtbuild.model.model import Model
from trtbuild.targets.trt import cudart
from trtbuild.targets.trt.cudart import Cudart
from trtbuild.tune import latency

Run = Callable[..., Any]
FEW = ("--iterations", "3", "--warmup", "1")


@pytest.fixture
def trt(tensorrt: Callable[..., Any], toy: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a version of the double; after the test nothing may be left on its GPU."""
    library = Library()
    monkeypatch.setattr(cudart, "load", lambda: Cudart(library))
    yield lambda version="10.3.0", **behaviour: tensorrt(version, cuda=library, **behaviour)
    assert library.alive == {}


@pytest.mark.parametrize(
    ("version", "mode"),
    [
        *((v, "implicit") for v in ("8.5.1.7", "8.6.1", "10.13.0")),
        ("10.13.0", "explicit"),
        ("11.0.0", "explicit"),
    ],
)
def test_layers(version: str, mode: str, trt: Any, toy: Path, run: Run, tmp_path: Path) -> None:
    trt(version)
    out = tmp_path / "bench.json"
    done = run("bench", "toy", "--layers", "--mode", mode, *FEW, "-o", out, "--json")
    assert done.code == 0, done.err
    assert json.loads(out.read_text()) == done.document
    assert f"bench: {out}" in done.err
    layers = done.document["layers"]
    assert {"Conv_c1", "Conv_c2", "MatMul_m", "Softmax_y"} <= layers["nodes"].keys()
    for node in ("Conv_c1", "Conv_c2", "MatMul_m"):
        assert layers["nodes"][node] == {"fp32": 4.0, "int8": 1.0}, "fused to it, a Relu takes nothing"
    for engine, total in layers["total"].items():
        shared = sum(times[engine] for times in layers["nodes"].values())
        assert total == pytest.approx(shared + layers["other"][engine])
    assert layers["other"]["int8"] > 0
    found = latency.load(out)
    found.check(Model.open(toy / "model.onnx"))
    assert found.cost_of(["Conv_c1", "Conv_c2"]) == 6.0


def test_what_is_printed(trt: Any, run: Run) -> None:
    trt()
    done = run("bench", "toy", "--layers", *FEW)
    assert done.code == 0, done.err
    lines = [" ".join(line.split()) for line in done.out.splitlines()]
    first = next(index for index, line in enumerate(lines) if "by what int8 saves" in line)
    rows = [line for line in lines[first:] if "Conv_c1" in line]
    assert [row.replace("\u2502", "").split() for row in rows] == [["Conv_c1", "4.0000", "1.0000", "3.0000"]]
    assert any("layers of no node" in line for line in lines)
    assert "IProfiler, sum of layers: launched one by one, so longer than the latencies above" in lines


def test_without_layers(trt: Any, run: Run, tmp_path: Path) -> None:
    trt()
    out = tmp_path / "bench.json"
    done = run("bench", "toy", *FEW, "-o", out)
    assert done.code == 0, done.err
    assert "IProfiler" not in done.out
    assert json.loads(out.read_text())["layers"] is None
    assert run("bench", "toy", *FEW, "-o", out).code == 0, "an earlier one is replaced"


def test_a_file_that_is_none_of_bench_is_kept(trt: Any, toy: Path, run: Run, tmp_path: Path) -> None:
    trt()
    others = {"text": b"mine", "list": b"[1]", "json": b'{"timed": 1}'[:-1], "string": b'"timed"'}
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    for path in [toy / "model.onnx", *(tmp_path / name for name in others)]:
        before = path.read_bytes()
        refused = run("bench", "toy", *FEW, "-o", path)
        assert refused.code == 2
        assert refused.errors == [
            f"error: -o {path} is there and is no document of bench; give another name or delete it"
        ]
        assert "building" not in refused.err
        assert path.read_bytes() == before
    assert "is a folder" in run("bench", "toy", "-o", tmp_path).errors[0]
    assert "cannot write into" in run("bench", "toy", "-o", tmp_path / "no" / "b.json").errors[0]
