"""GELU: the fused operators of ONNX and ONNX Runtime, and the erf, tanh and sigmoid(1.702 x) formulas.

A formula is found from its Erf, Tanh or Sigmoid, call its value t. Going back, t's argument must be
the right polynomial in some x; going on, a value must be the right polynomial in x and t. Comparing
polynomials covers every order in which an exporter may write the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from trtbuild.model.patterns.view import MICROSOFT, NO_NODES, PLUMBING, Nodes, View, is_op

_FUSED = frozenset({("", "Gelu"), (MICROSOFT, "Gelu"), (MICROSOFT, "FastGelu"), (MICROSOFT, "BiasGelu")})
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Neg")

_TOLERANCE = 5e-3  # exporters round the constants, to float16 or to three digits
_MAX_DEGREE = 4
_MAX_TERMS = 24  # values looked at for one polynomial
_MAX_CANDIDATES = 16
_MAX_STEPS_FORWARD = 8

_Polynomial = dict[tuple[int, int], float]  # exponents of x and of t -> factor
_Expansion = tuple[_Polynomial, Nodes]  # and the nodes that compute it
_Known = dict[ir.Value, _Expansion | None]

_IS_X: _Expansion = ({(1, 0): 1.0}, NO_NODES)
_IS_T: _Expansion = ({(0, 1): 1.0}, NO_NODES)
_HALF_SUM: _Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_FORMULAS: Mapping[str, tuple[_Polynomial, _Polynomial]] = {  # the function -> its argument, the whole
    "Erf": ({(1, 0): math.sqrt(0.5)}, _HALF_SUM),
    "Tanh": ({(1, 0): math.sqrt(2 / math.pi), (3, 0): 0.044715 * math.sqrt(2 / math.pi)}, _HALF_SUM),
    "Sigmoid": ({(1, 0): 1.702}, {(1, 1): 1.0}),
}


def gelus(view: View) -> Iterator[Nodes]:
    for node in view.order:
        if _is_fused(node):
            yield frozenset({node})
        elif is_op(node, *_FORMULAS) and (nodes := _formula_around(view, node)):
            yield nodes


def _is_fused(node: ir.Node) -> bool:
    operator = (node.domain, node.op_type)
    if operator == (MICROSOFT, "QuickGelu"):  # with another alpha it is no GELU: 1.0 is SiLU
        return math.isclose(node.attributes.get_float("alpha", 1.702), 1.702, rel_tol=_TOLERANCE)
    return operator in _FUSED


# --- the search --------------------------------------------------------------------------------------


def _formula_around(view: View, function: ir.Node) -> Nodes | None:
    argument = function.inputs[0]
    if argument is None:
        return None
    inner, whole = _FORMULAS[function.op_type]
    for x in _candidates(view, argument):
        found = _expand(view, argument, {x: _IS_X})
        if found and _close(found[0], inner) and (outer := _reach(view, x, function, whole)):
            return found[1] | outer | {function}
    return None


def _candidates(view: View, argument: ir.Value) -> list[ir.Value]:
    """The values, nearest first, that a polynomial may be a polynomial of."""
    values = [view.strip(argument).source]
    for value in values:  # grows on the way
        node = view.producer(value)
        if node is None or not is_op(node, *_ARITHMETIC):
            continue
        for operand in view.activations(node.inputs):
            origin = view.strip(operand).source
            if origin not in values and len(values) < _MAX_CANDIDATES:
                values.append(origin)
    return values


def _reach(view: View, x: ir.Value, function: ir.Node, whole: _Polynomial) -> Nodes | None:
    """The nodes from the function's value to the one that holds the whole formula."""
    t = function.outputs[0]
    front = [t]
    for _ in range(_MAX_STEPS_FORWARD):
        onward = []
        for value in front:
            for user in view.users(value):
                if not is_op(user, *_ARITHMETIC, *PLUMBING):
                    continue
                found = _expand(view, user.outputs[0], {x: _IS_X, t: _IS_T})
                if found is None:
                    continue
                if _close(found[0], whole):
                    return found[1]
                onward.append(user.outputs[0])
        front = list(dict.fromkeys(onward))
    return None


# --- from nodes to polynomials -----------------------------------------------------------------------


def _expand(view: View, value: ir.Value, known: _Known) -> _Expansion | None:
    """The polynomial that a value is and the nodes that compute it; None if it is none.

    `known` starts with x and t, grows with what was found, and bounds the search by its size.
    """
    constant = view.scalar(value)
    if constant is not None:
        return {(0, 0): constant}, NO_NODES
    origin, passed = view.strip(value)
    if origin not in known:
        node = view.producer(origin)
        if node is None or not is_op(node, *_ARITHMETIC) or len(known) > _MAX_TERMS:
            return None
        known[origin] = None  # counts from now on
        known[origin] = _compute(view, node, known)
    expansion = known[origin]
    if expansion is None or expansion is _IS_X:
        return expansion  # what lies between x and its use belongs to x
    return expansion[0], expansion[1] | passed


def _compute(view: View, node: ir.Node, known: _Known) -> _Expansion | None:
    operands = []
    nodes = frozenset({node})
    for operand in node.inputs:
        expansion = None if operand is None else _expand(view, operand, known)
        if expansion is None:
            return None
        operands.append(expansion[0])
        nodes |= expansion[1]
    if node.op_type == "Neg":
        operands.append({(0, 0): -1.0})
    result = _combine(node.op_type, *operands) if len(operands) == 2 else None
    return None if result is None else (result, nodes)


def _combine(op_type: str, left: _Polynomial, right: _Polynomial) -> _Polynomial | None:
    if op_type in ("Mul", "Neg"):
        return _times(left, right)
    if op_type in ("Add", "Sub"):
        sign = 1.0 if op_type == "Add" else -1.0
        terms = left.keys() | right.keys()
        return {term: left.get(term, 0.0) + sign * right.get(term, 0.0) for term in terms}
    constant = right[0, 0] if right.keys() == {(0, 0)} else 0.0
    if op_type == "Div" and constant:
        return _times(left, {(0, 0): 1 / constant})
    if op_type == "Pow" and constant in range(1, _MAX_DEGREE + 1):
        return _power(left, int(constant))
    return None


def _power(base: _Polynomial, exponent: int) -> _Polynomial | None:
    if exponent == 1:
        return base
    lower = _power(base, exponent - 1)
    return None if lower is None else _times(lower, base)


def _times(left: _Polynomial, right: _Polynomial) -> _Polynomial | None:
    result: _Polynomial = {}
    for (a, b), first in left.items():
        for (c, d), second in right.items():
            if a + b + c + d > _MAX_DEGREE:
                return None
            result[a + c, b + d] = result.get((a + c, b + d), 0.0) + first * second
    return result


def _close(left: _Polynomial, right: _Polynomial) -> bool:
    return all(
        math.isclose(left.get(term, 0.0), right.get(term, 0.0), rel_tol=_TOLERANCE, abs_tol=1e-6)
        for term in left.keys() | right.keys()
    )
