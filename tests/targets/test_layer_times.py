"""Milliseconds of layers, shared among the model's nodes."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from trtbuild.errors import BuildError
from trtbuild.precision.map import NodePrecision, PrecisionMap
from trtbuild.targets.base import Layer
from trtbuild.targets.layer_times import METHOD, LayerTimes, Profiled, layer_times

NODES = {
    "c1": "Conv",
    "b1": "BatchNormalization",
    "r1": "Relu",
    "s": "Softmax",
    "t": "Transpose",
    "m": "MatMul",
}
PRECISIONS = PrecisionMap(
    "int8", "fp32", {name: NodePrecision(kind, "int8", "", True, False) for name, kind in NODES.items()}, ()
)


def layer(name: str, *nodes: str) -> Layer:
    return Layer(name, "kind", nodes, "fp32")


def of_one(milliseconds: Mapping[str, float], *layers: Layer) -> LayerTimes:
    return layer_times({"fp32": Profiled(milliseconds, layers)}, PRECISIONS)


def shares(*nodes: str) -> dict[str, float]:
    found = of_one({"a": 6.0}, layer("a", *nodes))
    assert found.total == {"fp32": 6.0}
    assert sum(times["fp32"] for times in found.nodes.values()) + found.other["fp32"] == 6.0
    return {node: times["fp32"] for node, times in found.nodes.items()}


def test_a_fused_layer_is_its_products() -> None:
    assert shares("c1", "b1", "r1") == {"c1": 6.0, "b1": 0.0, "r1": 0.0}
    assert shares("r1", "m", "c1") == {"c1": 3.0, "r1": 0.0, "m": 3.0}  # in graph order


def test_without_a_product_it_is_of_what_computes() -> None:
    assert shares("b1", "r1", "s") == {"b1": 2.0, "r1": 2.0, "s": 2.0}
    assert shares("s", "t") == {"s": 6.0, "t": 0.0}
    assert shares("t") == {"t": 6.0}


def test_of_each_engine_apart() -> None:
    found = layer_times(
        {
            "fp32": Profiled(
                {"c1 + r1": 4.0, "m": 2.0, "s": 0.5}, [layer("c1 + r1", "c1", "r1"), layer("m", "m")]
            ),
            "int8": Profiled(
                {"reformat": 0.25, "c1": 1.0, "r1": 0.5}, [layer("c1", "c1"), layer("r1", "r1")]
            ),
        },
        PRECISIONS,
    )
    assert found == LayerTimes(
        nodes={
            "c1": {"fp32": 4.0, "int8": 1.0},
            "r1": {"fp32": 0.0, "int8": 0.5},
            "m": {"fp32": 2.0, "int8": 0.0},
        },
        other={"fp32": 0.5, "int8": 0.25},
        total={"fp32": 6.5, "int8": 1.75},
        method=METHOD,
    )
    assert METHOD == "IProfiler, sum of layers"


def test_a_node_in_several_layers() -> None:
    assert of_one({"a": 1.0, "b": 2.0}, layer("a", "c1"), layer("b", "c1")).nodes == {"c1": {"fp32": 3.0}}


def test_layers_of_one_name_are_one() -> None:
    """The profiler does not tell them apart; each of the nodes is told once."""
    found = of_one({"a": 4.0}, layer("a", "c1"), layer("a", "m"), layer("a", "c1"))
    assert found.nodes == {"c1": {"fp32": 2.0}, "m": {"fp32": 2.0}}


def test_nodes_that_are_not_the_models_do_not_count() -> None:
    """Q/DQ that was written into it, nodes inside an If."""
    assert shares("c1", "c1_quantize", "if/then") == {"c1": 6.0}
    assert of_one({"a": 6.0, "b": 1.0}, layer("a", "m"), layer("b", "q")).other == {"fp32": 1.0}


@pytest.mark.parametrize(
    "layers", [(), (layer("a"),), (layer("a", "stranger"),), (layer("not timed", "c1"),)]
)
def test_an_engine_that_shows_none_of_the_nodes(layers: tuple[Layer, ...]) -> None:
    with pytest.raises(
        BuildError, match=r"none of the 2 layers .* of engine fp32 is known to execute a node"
    ):
        of_one({"a": 1.0, "b": 2.0}, *layers)
