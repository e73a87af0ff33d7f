"""Which ONNX node each layer of a network came from, in networks that TensorRT-RTX's parser made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.real_models import every_model
from tests.targets.test_parse import SQUARE, parsed, trt
from trtbuild.model.model import Model
from trtbuild.rewrite.given import as_given
from trtbuild.targets.trt import network as networks


def check_nodes(path: Path, given: bool) -> None:
    """TensorRT 8.5 has no metadata. Where there is some, the rule that goes by tensors finds the node that it
    tells, for every layer that computes floats; and for what the parser adds, a node that reads it or makes
    its tensor."""
    opened = Model.open(path)
    model = as_given(opened) if given else opened.normalised
    result = parsed(model, typed=True)
    layers = networks.layers(result.network)
    makers = {str(value.name): str(node.name) for node in model.graph for value in node.outputs}
    nodes = networks.nodes_of(layers, model.graph)
    noted = [node if layer.metadata else None for layer, node in zip(layers, nodes, strict=True)]
    by_tensors = networks.by_tensors(
        [[t.name for t in networks.outputs_of(layer)] for layer in layers], makers
    )
    readers: dict[str, set[str | None]] = {}
    for layer, node in zip(layers, noted, strict=True):
        for tensor in networks.inputs_of(layer):
            readers.setdefault(tensor.name, set()).add(node)
    wrong = []
    for layer, told, found in zip(layers, noted, by_tensors, strict=True):
        outputs = networks.outputs_of(layer)
        if layer.type == trt.LayerType.CONSTANT or not networks.float_dtypes(trt, outputs):
            continue
        accepted = {told} if told else set().union(*(readers.get(tensor.name, set()) for tensor in outputs))
        if told is None:
            accepted |= {makers[tensor.name] for tensor in outputs if tensor.name in makers}
        if found not in accepted:
            wrong.append((layer.name, told, found))
    assert wrong == []
    names = {node.name for node in model.graph}
    assert {node for node in (*nodes, *by_tensors) if node is not None} <= names


as_it_comes = pytest.mark.parametrize("given", [True, False], ids=["as given", "normalised"])


@as_it_comes
def test_without_metadata_the_tensors_lead_to_the_same_nodes(
    any_toy: str, given: bool, toy: Callable[..., Path]
) -> None:
    check_nodes(toy(any_toy), given)


@as_it_comes
@every_model
def test_without_metadata_the_tensors_of_real_models_do_too(path: Path, given: bool) -> None:
    check_nodes(path, given)


@as_it_comes
def test_layers_of_a_loop_belong_to_the_loop(toy: Callable[..., Path], given: bool) -> None:
    """Their metadata names the node inside the body alone."""
    path = toy(
        body="r = Relu(x) y = Loop(count, on, r) <body = step (int64 i, bool c, float[4,4] v) =>"
        " (bool d, float[4,4] w) { d = Identity(c) w = Tanh(v) }>",
        weights={"count": np.asarray(3), "on": np.asarray(True)},
        **SQUARE,
    )
    opened = Model.open(path)
    model = as_given(opened) if given else opened.normalised
    found = networks.read(trt, parsed(model, typed=True).network, model.graph)
    assert [layer.node for layer in found if layer.type == "ACTIVATION"] == ["Relu_r", "Loop_y"]
    assert networks.types_of(found)["Loop_y"] >= {"ACTIVATION", "LOOP_OUTPUT"}


def test_what_the_metadata_says_goes_before_what_the_tensors_say(toy: Callable[..., Path]) -> None:
    """A layer that a node has behind the one that makes its tensor; TensorRT 8.5 gives it to the next."""

    def layer(tensor: str, **more: Any) -> Any:
        output = SimpleNamespace(name=tensor)
        return SimpleNamespace(num_outputs=1, get_output=lambda index: output, **more)

    def noted(node: str) -> dict[str, str]:
        return {"metadata": f"[ONNX Layer: {node}]" if node else ""}

    graph = Model.open(toy(body="a = Relu(x) y = Tanh(a)", **SQUARE)).graph
    tensors = {"a": "Relu_a", "other": "Relu_a", "helper": "", "y": "Tanh_y", "last": ""}
    new = [layer(tensor, **noted(node)) for tensor, node in tensors.items()]
    assert networks.nodes_of(new, graph) == ["Relu_a", "Relu_a", "Tanh_y", "Tanh_y", None]
    old = [layer(tensor) for tensor in tensors]
    assert networks.nodes_of(old, graph) == ["Relu_a", "Tanh_y", "Tanh_y", "Tanh_y", None]
