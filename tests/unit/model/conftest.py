"""Toy graphs from ONNX text, and what is found in them."""

from __future__ import annotations

from collections.abc import Callable

import onnx.parser
import onnx_ir as ir
import pytest

from trtbuild.model import patterns

CONSTANTS = """
    float eps = {1e-5}, float zero = {0}, float half = {0.5}, float[1] one = {1}, float two = {2},
    float three = {3}, float eighth = {0.125}, float minus_half = {-0.5}, float low = {-3.4e38},
    float root2 = {1.4142135}, float rsqrt2 = {0.7071068}, float c3 = {0.044715}, float k = {0.7978845},
    float kc3 = {0.0356774}, float quick = {1.702}, float[1,8] w = {1,1,1,1,1,1,1,1},
    float[8] gamma = {1,1,1,1,1,1,1,1}, float[8] beta = {0,0,0,0,0,0,0,0},
    int64[1] axes = {-1}, int64[2] shape = {-1, 8}
"""


@pytest.fixture(scope="session")
def parse() -> Callable[..., ir.Graph]:
    """A graph from ONNX text; it knows the constants above, `w` is a weight and `y` the output."""

    def parse_text(body: str, *, inputs: str = "float[N,8] x", opset: int = 17) -> ir.Graph:
        text = f"""
        <ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>
        toy ({inputs}) => (float[N,8] y) <{CONSTANTS}> {{ {body} }}"""
        return ir.from_proto(onnx.parser.parse_model(text)).graph

    return parse_text


@pytest.fixture(scope="session")
def found(parse: Callable[..., ir.Graph]) -> Callable[..., list[str]]:
    """The matches of a pattern in such a graph, each as the first outputs of its nodes."""

    def find(name: str, body: str, *, inputs: str = "float[N,8] x", opset: int = 17) -> list[str]:
        matches = patterns.find(name, parse(body, inputs=inputs, opset=opset))
        return [" ".join(str(node.outputs[0].name) for node in match) for match in matches]

    return find
