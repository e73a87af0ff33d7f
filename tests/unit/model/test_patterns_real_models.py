"""What is found in models that ship inside packages, as PaddlePaddle and JAX export them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx_ir as ir
import pytest

from trtbuild.model import patterns


def packaged(package: str, path: str) -> ir.Graph:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        pytest.skip(f"this version of {package} has no {path}")
    return ir.load(file).graph


def kinds(name: str, graph: ir.Graph) -> list[str]:
    return [" ".join(node.op_type for node in match) for match in patterns.find(name, graph)]


def names(name: str, graph: ir.Graph) -> list[list[str | None]]:
    return [[node.name for node in match] for match in patterns.find(name, graph)]


def test_ppocr_v4_rec() -> None:
    graph = packaged("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx")
    assert kinds("layernorm", graph) == ["ReduceMean Sub Pow ReduceMean Add Sqrt Div Mul Add"] * 5
    assert names("softmax", graph) == [["p2o.Softmax.0"], ["p2o.Softmax.1"], ["p2o.Softmax.2"]]
    assert names("attention-scores", graph) == [["p2o.MatMul.2"], ["p2o.MatMul.14"]]
    assert names("residual-add", graph) == [[f"p2o.Add.{n}"] for n in (240, 250, 260, 270)]
    assert patterns.find("gelu", graph) == []  # its swishes are sigmoid(1.0 x)
    assert patterns.find("logsoftmax", graph) == []


def test_magika() -> None:
    graph = packaged("magika", "models/standard_v3_3/model.onnx")  # JAX by way of tf2onnx
    layernorms = kinds("layernorm", graph)
    assert len(layernorms) == 2
    for match in layernorms:  # mean(x * x) - mean(x) ** 2, reshaped and expanded to the shape of x
        assert sorted(match.split()) == sorted(
            ["ReduceSum", "Mul"] * 2 + ["Mul"] * 2 + ["Sub", "Max", "Add", "Sqrt", "Reciprocal"]
            + ["Reshape", "Expand"] * 2 + ["Sub", "Mul", "Mul", "Add"]
        )  # fmt: skip
    assert kinds("softmax", graph) == ["ReduceMax Max Reshape Expand Sub Exp ReduceSum Reshape Expand Div"]
    assert kinds("gelu", graph) == ["Mul Mul Mul Add Mul Tanh Add Mul Mul"] * 2
    for absent in ("logsoftmax", "attention-scores", "residual-add"):
        assert patterns.find(absent, graph) == []
