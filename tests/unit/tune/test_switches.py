"""Only what is asked for is on the other side, and only while it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir
import pytest

from tests.unit.tune.conftest import Case
from trtbuild.errors import InputError
from trtbuild.precision.map import PrecisionMap
from trtbuild.precision.rules import resolve
from trtbuild.recipe import Pin, PrecisionSection
from trtbuild.tune.switches import Switches

INT8, FLOAT = PrecisionSection(), PrecisionSection(default="fp32")
RESIDUAL = "a residual, and a shared weight"


def switches_of(case: Case, precisions: PrecisionMap, nodes: list[str], corrected: bool = False) -> Switches:
    return Switches(case.model, precisions, case.table, case.base(precisions, corrected).biases, nodes)


def read(switches: Switches) -> dict[str, tuple[str | None, ...]]:
    """What each of the model's own nodes reads."""
    return {
        str(node.name): tuple(None if value is None else str(value.name) for value in node.inputs)
        for node in switches.model.graph
        if not str(node.name).endswith(("::q", "::dq"))
    }


def names(case: Case, op_type: str) -> list[str]:
    return [str(node.name) for node in case.model.graph if node.op_type == op_type]


def test_each_kind_of_input(make_case: Callable[[str], Case]) -> None:
    case = make_case(RESIDUAL)
    first, *_ = names(case, "Conv")
    switches = switches_of(case, resolve(case.model, FLOAT, ()), [first])
    before = read(switches)
    assert before[first] == ("x", "k", "b"), "off, as in the base"
    with switches.flipped([first], ("weights",)):
        assert read(switches)[first] == ("x", f"{first}::1::float::folded", "b")
    with switches.flipped([first], ("activations",)):
        assert read(switches)[first] == (f"{first}::0::float", "k", "b")
        assert {name for name, inputs in read(switches).items() if inputs != before[name]} == {first}
    assert read(switches) == before


def test_a_correction_goes_with_its_node_alone(make_case: Callable[[str], Case]) -> None:
    case = make_case(RESIDUAL)
    first, second, *_ = names(case, "Conv")
    switches = switches_of(case, resolve(case.model, INT8, ()), [first, second], corrected=True)
    corrected = {name for name, inputs in read(switches).items() if str(inputs[-1]).endswith("::corrected")}
    assert corrected == set(names(case, "Conv"))
    with switches.flipped([second], ("activations", "weights", "bias")):
        assert read(switches)[second] == ("r", "k", None), "it had no bias"
        assert read(switches)[first][-1] == f"{first}::2::corrected"
    with switches.flipped([first], ("activations", "weights", "bias")):
        assert read(switches)[first] == ("x", "k", "b")


def test_the_bias_of_a_matmul_is_in_the_add_behind_it(make_case: Callable[[str], Case]) -> None:
    case = make_case("products")
    (add,), product = names(case, "Add"), names(case, "MatMul")[0]
    switches = switches_of(case, resolve(case.model, INT8, ()), [product], corrected=True)
    assert read(switches)[add] == ("q0", f"{add}::1::corrected")
    with switches.flipped([product], ("bias",)):
        assert read(switches)[add] == ("q0", "bq")
    positions = {str(node.name): index for index, node in enumerate(switches.model.graph)}
    assert switches.span([product]) == (positions[f"{product}::0::q"], positions[add])


def test_the_model_that_it_is_made_from_stays(make_case: Callable[[str], Case]) -> None:
    case = make_case(RESIDUAL)
    before = ir.to_proto(case.model.normalised).SerializeToString()
    convs = names(case, "Conv")
    switches = switches_of(case, resolve(case.model, INT8, [Pin(name=convs[0])]), convs, corrected=True)
    with switches.flipped(convs, ("activations", "weights", "bias")):
        assert read(switches)[convs[0]][0] == f"{convs[0]}::0::float"
        assert read(switches)[convs[1]][0] == "r"
    assert [switches.int8(name) for name in convs] == [False, True, True, True]
    assert ir.to_proto(case.model.normalised).SerializeToString() == before


@pytest.mark.parametrize(("node", "why"), [("Relu_r", "Relu has no int8 form"), ("no", "no such node")])
def test_a_node_without_int8_form_is_refused(make_case: Callable[[str], Case], node: str, why: str) -> None:
    case = make_case(RESIDUAL)
    with pytest.raises(InputError, match=f"{node!r} cannot be switched to int8: .*{why}"):
        switches_of(case, resolve(case.model, INT8, ()), [node])
