"""Known subgraphs of an ONNX graph: layer norms, softmaxes, GELUs, attention scores, residual adds.

Read-only: `find` names nodes, it never changes them. A match holds the nodes that compute
something, the casts and reshapes between them, and no Constant nodes.

Why not `onnxscript.rewriter.pattern` (0.7.2, evaluated): it compares constants only when they are
rank-0 initializers (a Constant node never matches), cannot look through the Identity, Cast and
Reshape nodes that exporters put between the operations, cannot follow chains of unknown length,
fails in `commute()` when a pattern has an `OrValue` of two equal operators, and took 1.3 s for two
patterns (72 commuted variants) on 5,000 nodes.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

_Nodes = frozenset[ir.Node]
_NONE: _Nodes = frozenset()

# Keep the values and change at most their type or shape: exporters put them between the operations.
_PLUMBING = frozenset({"Identity", "Cast", "Reshape", "Expand", "Squeeze", "Unsqueeze"})
_PLUMBING_STEPS = 8
_WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_CONSTANT_NUMBERS = ("value_float", "value_floats", "value_int", "value_ints")

_MICROSOFT = "com.microsoft"
_LAYERNORM_OPS = frozenset(
    {
        ("", "LayerNormalization"),
        ("", "RMSNormalization"),
        ("", "SimplifiedLayerNormalization"),  # ONNX Runtime registers it in the default domain
        (_MICROSOFT, "SimplifiedLayerNormalization"),
        (_MICROSOFT, "SkipLayerNormalization"),
        (_MICROSOFT, "SkipSimplifiedLayerNormalization"),
    }
)
_GELU_OPS = frozenset(
    {("", "Gelu"), (_MICROSOFT, "Gelu"), (_MICROSOFT, "FastGelu"), (_MICROSOFT, "BiasGelu")}
)


def find(name: str, graph: ir.Graph) -> list[tuple[ir.Node, ...]]:
    """Find all matches of a pattern among the graph's own nodes (not inside If or Loop bodies).

    Matches come in topological order of their last node, the nodes of a match in topological order.
    Matches of one pattern never share a node: the one that ends first wins, then the longest.
    """
    if name not in PATTERNS:
        raise ValueError(f"unknown pattern {name!r}; there are: {', '.join(PATTERNS)}")
    view = _view(graph)
    matches = [tuple(sorted(nodes, key=view.order.__getitem__)) for nodes in PATTERNS[name](view)]
    matches.sort(key=lambda match: (view.order[match[-1]], -len(match)))
    taken: set[ir.Node] = set()
    result = []
    for match in matches:
        if taken.isdisjoint(match):
            taken.update(match)
            result.append(match)
    return result


# --- the graph as the matchers see it ---------------------------------------------------------------


@dataclass(frozen=True)
class _View:
    """A graph with what every matcher asks: the order of its nodes and which values are not activations."""

    order: dict[ir.Node, int]
    static: set[ir.Value]  # computed from constants and shapes alone
    scalars: dict[ir.Value, float | None] = field(default_factory=dict)

    def producer(self, value: ir.Value) -> ir.Node | None:
        node = value.producer()
        return node if node in self.order else None

    def is_static(self, value: ir.Value | None) -> bool:
        if value is None or value in self.static:
            return True
        return value.is_initializer() or value.const_value is not None

    def users(self, value: ir.Value) -> list[ir.Node]:
        users = {user for user, _ in value.uses() if user in self.order}
        return sorted(users, key=self.order.__getitem__)

    def strip(self, value: ir.Value) -> tuple[ir.Value, _Nodes]:
        """The value behind casts and reshapes, and those nodes."""
        passed = []
        for _ in range(_PLUMBING_STEPS):
            node = self.producer(value)
            if node is None or not _is(node, *_PLUMBING) or node.inputs[0] is None:
                break
            passed.append(node)
            value = node.inputs[0]
        return value, frozenset(passed)

    def made_by(self, value: ir.Value | None, *op_types: str) -> tuple[ir.Node, _Nodes] | None:
        """The node of one of these types that computes the value, with the plumbing between the two."""
        if value is None:
            return None
        origin, passed = self.strip(value)
        node = self.producer(origin)
        if node is None or not _is(node, *op_types):
            return None
        return node, passed | {node}

    def same(self, left: ir.Value, right: ir.Value) -> bool:
        return left is right or self.strip(left)[0] is self.strip(right)[0]

    def scalar(self, value: ir.Value) -> float | None:
        """The number that a one-element constant holds."""
        if value not in self.scalars:
            self.scalars[value] = _number(self.strip(value)[0])
        return self.scalars[value]

    def without_static(self, node: ir.Node) -> ir.Value | None:
        """The other operand of a commutative node that has one static operand."""
        for value, other in _swapped(node):
            if self.is_static(other) and not self.is_static(value):
                return value
        return None


def _view(graph: ir.Graph) -> _View:
    view = _View({node: index for index, node in enumerate(graph)}, set())
    subgraphs = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)  # these read outer values unseen
    for node in graph:
        computed = bool(node.inputs) and not any(attr.type in subgraphs for attr in node.attributes.values())
        if _is(node, "Constant", "Shape", "Size") or (computed and all(map(view.is_static, node.inputs))):
            view.static.update(node.outputs)
    return view


def _is(node: ir.Node, *op_types: str) -> bool:
    return node.op_type in op_types and node.domain == ""


def _number(value: ir.Value) -> float | None:
    # Not ir.convenience.get_const_tensor: that renames the tensor inside the Constant node.
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None and _is(node, "Constant"):
        attribute = next(iter(node.attributes.values()), None)
        if attribute is not None and attribute.type == ir.AttributeType.TENSOR:
            tensor = attribute.as_tensor()
        elif attribute is not None and attribute.name in _CONSTANT_NUMBERS:
            numbers = np.ravel(attribute.value)
            return float(numbers[0]) if numbers.size == 1 else None
    if tensor is None or tensor.size != 1:
        return None
    if not (tensor.dtype.is_floating_point() or tensor.dtype.is_integer()):
        return None
    return float(np.asarray(tensor.numpy()).item())


def _pair(node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    if len(node.inputs) != 2 or node.inputs[0] is None or node.inputs[1] is None:
        return None
    return node.inputs[0], node.inputs[1]


def _swapped(node: ir.Node) -> tuple[tuple[ir.Value, ir.Value], ...]:
    pair = _pair(node)
    return () if pair is None else (pair, pair[::-1])


# --- layer normalization ----------------------------------------------------------------------------


def _layernorm(view: _View) -> Iterator[_Nodes]:
    """The fused operators; (x - mean) / sqrt(variance + eps) [* gamma] [+ beta], with or without the mean."""
    for node in view.order:
        if (node.domain, node.op_type) in _LAYERNORM_OPS:
            yield frozenset({node})
        elif _is(node, "Div", "Mul") and (core := _normalized(view, node)):
            yield core | _affine(view, node.outputs[0])


def _normalized(view: _View, node: ir.Node) -> _Nodes | None:
    pairs = _swapped(node)[:1] if node.op_type == "Div" else _swapped(node)
    scale_of = _deviation if node.op_type == "Div" else _inverse_deviation
    for value, scale in pairs:
        if (found := scale_of(view, scale)) and (spread := _spread_of(view, found[0], value)):
            return spread | found[1] | {node}
    return None


def _deviation(view: _View, value: ir.Value, exponent: float = 0.5) -> tuple[ir.Value, _Nodes] | None:
    """Sqrt(variance + eps), or the power that says the same: the variance and the nodes."""
    root = view.made_by(value, "Sqrt", "Pow")
    if root is None or (_exponent(view, root[0]) if root[0].op_type == "Pow" else 0.5) != exponent:
        return None
    shifted = view.made_by(root[0].inputs[0], "Add")
    variance = view.without_static(shifted[0]) if shifted else None
    if shifted is None or variance is None:
        return None
    return variance, root[1] | shifted[1]


def _inverse_deviation(
    view: _View, value: ir.Value, gamma_inside: bool = True
) -> tuple[ir.Value, _Nodes] | None:
    """1 / sqrt(variance + eps), which may have gamma multiplied in: the variance and the nodes."""
    outer = view.made_by(value, "Reciprocal", "Div", "Pow", "Mul")
    if outer is None:
        return None
    node, nodes = outer
    found = None
    if node.op_type == "Pow":
        found = _deviation(view, value, -0.5)
    elif node.op_type == "Reciprocal" and node.inputs[0] is not None:
        found = _deviation(view, node.inputs[0])
    elif node.op_type == "Div" and (pair := _pair(node)) and view.scalar(pair[0]) == 1:
        found = _deviation(view, pair[1])
    elif node.op_type == "Mul" and gamma_inside and (inverse := view.without_static(node)):
        found = _inverse_deviation(view, inverse, gamma_inside=False)
    return (found[0], found[1] | nodes) if found else None


def _spread_of(view: _View, variance: ir.Value, value: ir.Value) -> _Nodes | None:
    """The nodes, if `variance` is the variance (or mean square) of what `value` is or was centred from."""
    centred = _centred(view, value)
    if (mean := _mean(view, variance)) and (square := _square(view, mean[0])):
        nodes = mean[1] | square[1]
        twin = _centred(view, square[0])  # some exporters give each use its own Sub
        if centred and twin and view.same(centred[0], twin[0]):
            return nodes | centred[1] | twin[1]
        return nodes if view.same(square[0], value) else None
    return _single_pass_variance(view, variance, centred) if centred else None


def _single_pass_variance(view: _View, variance: ir.Value, centred: tuple[ir.Value, _Nodes]) -> _Nodes | None:
    """mean(x * x) - mean(x) * mean(x), which may be clamped at zero (JAX)."""
    clamp = view.made_by(variance, "Max", "Relu")
    nodes = centred[1] | (clamp[1] if clamp else _NONE)
    clamped = variance
    if clamp:
        inner = clamp[0].inputs[0] if clamp[0].op_type == "Relu" else view.without_static(clamp[0])
        if inner is None:
            return None
        clamped = inner
    difference = view.made_by(clamped, "Sub")
    pair = _pair(difference[0]) if difference else None
    if difference is None or pair is None:
        return None
    first, second = _mean(view, pair[0]), _square(view, pair[1])
    mean_of = _square(view, first[0]) if first else None
    square_of = _mean(view, second[0]) if second else None
    if not (first and second and mean_of and square_of):
        return None
    if not (view.same(mean_of[0], centred[0]) and view.same(square_of[0], centred[0])):
        return None
    return nodes | difference[1] | first[1] | second[1] | mean_of[1] | square_of[1]


def _centred(view: _View, value: ir.Value) -> tuple[ir.Value, _Nodes] | None:
    """x - mean(x): x and the nodes."""
    difference = view.made_by(value, "Sub")
    pair = _pair(difference[0]) if difference else None
    mean = _mean(view, pair[1]) if pair else None
    if difference and pair and mean and view.same(pair[0], mean[0]):
        return pair[0], difference[1] | mean[1]
    return None


def _mean(view: _View, value: ir.Value) -> tuple[ir.Value, _Nodes] | None:
    """ReduceMean, or ReduceSum and a constant factor: what is averaged, and the nodes."""
    outer = view.made_by(value, "ReduceMean", "Mul", "Div")
    if outer is None or outer[0].inputs[0] is None:
        return None
    node, nodes = outer
    if node.op_type == "ReduceMean":
        return outer[0].inputs[0], nodes
    total = view.made_by(_unscaled(view, node), "ReduceSum")
    if total is None or total[0].inputs[0] is None:
        return None
    return total[0].inputs[0], nodes | total[1]


def _unscaled(view: _View, node: ir.Node) -> ir.Value | None:
    """x of x * static, static * x or x / static."""
    if node.op_type == "Mul":
        return view.without_static(node)
    pair = _pair(node)
    return pair[0] if pair and view.is_static(pair[1]) and not view.is_static(pair[0]) else None


def _square(view: _View, value: ir.Value) -> tuple[ir.Value, _Nodes] | None:
    made = view.made_by(value, "Pow", "Mul")
    pair = _pair(made[0]) if made else None
    if made is None or pair is None:
        return None
    squares = _exponent(view, made[0]) == 2 if made[0].op_type == "Pow" else view.same(*pair)
    return (pair[0], made[1]) if squares else None


def _exponent(view: _View, power: ir.Node) -> float | None:
    pair = _pair(power)
    return view.scalar(pair[1]) if pair else None


def _affine(view: _View, value: ir.Value) -> _Nodes:
    """The Mul and Add with constants that follow a value."""
    nodes = _NONE
    for op_type in ("Mul", "Add"):
        if step := _constant_step(view, value, op_type):
            nodes |= step[1]
            value = step[0].outputs[0]
    return nodes


def _constant_step(view: _View, value: ir.Value, op_type: str) -> tuple[ir.Node, _Nodes] | None:
    passed: set[ir.Node] = set()
    for _ in range(_PLUMBING_STEPS):
        users = view.users(value)
        for user in users:
            if _is(user, op_type) and view.without_static(user) is not None:
                return user, frozenset(passed | {user})
        onward = next((user for user in users if _is(user, "Identity", "Cast")), None)
        if onward is None:
            return None
        passed.add(onward)
        value = onward.outputs[0]
    return None


# --- softmax and logsoftmax -------------------------------------------------------------------------


def _softmax(view: _View) -> Iterator[_Nodes]:
    """Softmax; exp(x) / sum(exp(x)), where x may be shifted by its maximum."""
    for node in view.order:
        if found := _softmax_at(view, node):
            yield found[1]


def _softmax_at(view: _View, node: ir.Node) -> tuple[ir.Value, _Nodes] | None:
    """The input of the softmax that ends in this node, and its nodes."""
    if _is(node, "Softmax") and node.inputs[0] is not None:
        return node.inputs[0], frozenset({node})
    if not _is(node, "Div", "Mul"):
        return None
    for value, scale in _swapped(node)[:1] if node.op_type == "Div" else _swapped(node):
        exponential = view.made_by(value, "Exp")
        if exponential is None:
            continue
        divisor: ir.Value | None = scale
        nodes = exponential[1] | {node}
        if node.op_type == "Mul":
            inverse = view.made_by(scale, "Reciprocal")
            divisor = inverse[0].inputs[0] if inverse else None
            nodes |= inverse[1] if inverse else _NONE
        total = view.made_by(divisor, "ReduceSum")
        summed = view.made_by(total[0].inputs[0], "Exp") if total else None
        source = exponential[0].inputs[0]
        if total and summed and summed[0] is exponential[0] and source is not None:
            x, shift = _unshifted(view, source)
            return x, nodes | total[1] | summed[1] | shift
    return None


def _unshifted(view: _View, value: ir.Value) -> tuple[ir.Value, _Nodes]:
    """x and the nodes of x - max(x); the value itself where it is nothing of the kind."""
    difference = view.made_by(value, "Sub")
    pair = _pair(difference[0]) if difference else None
    if difference is None or pair is None:
        return value, _NONE
    nodes = difference[1]
    top: ir.Value | None = pair[1]
    if floor := view.made_by(top, "Max"):  # JAX: max(-inf, max(x))
        top = view.without_static(floor[0])
        nodes |= floor[1]
    maximum = view.made_by(top, "ReduceMax")
    of = maximum[0].inputs[0] if maximum else None
    if maximum is None or of is None or not view.same(of, pair[0]):
        return value, _NONE
    return pair[0], nodes | maximum[1]


def _logsoftmax(view: _View) -> Iterator[_Nodes]:
    """LogSoftmax; log(softmax(x)); x - log(sum(exp(x))), where x may be shifted by its maximum."""
    for node in view.order:
        if _is(node, "LogSoftmax"):
            yield frozenset({node})
        elif _is(node, "Log") and node.inputs[0] is not None:
            origin, passed = view.strip(node.inputs[0])
            producer = view.producer(origin)
            if producer and (found := _softmax_at(view, producer)):
                yield found[1] | passed | {node}
        elif _is(node, "Sub") and (pair := _pair(node)):
            total = _log_sum_exp(view, pair[1])
            if total and view.same(total[0], pair[0]):
                yield total[1] | _unshifted(view, pair[0])[1] | {node}


def _log_sum_exp(view: _View, value: ir.Value) -> tuple[ir.Value, _Nodes] | None:
    outer = view.made_by(value, "ReduceLogSumExp", "ReduceLogSum", "Log")
    if outer is None:
        return None
    node, nodes = outer
    if node.op_type == "Log":
        total = view.made_by(node.inputs[0], "ReduceSum")
        if total is None:
            return None
        node, nodes = total[0], nodes | total[1]
    if node.op_type != "ReduceLogSumExp":
        exponential = view.made_by(node.inputs[0], "Exp")
        if exponential is None:
            return None
        node, nodes = exponential[0], nodes | exponential[1]
    return (node.inputs[0], nodes) if node.inputs[0] is not None else None


# --- attention scores -------------------------------------------------------------------------------

_CHAIN_NODES = 32  # between the MatMul and the softmax


def _attention_scores(view: _View) -> Iterator[_Nodes]:
    """The MatMul of two activations that reaches a softmax by scaling, masking and reshaping alone."""
    for node in view.order:
        if (found := _softmax_at(view, node)) and (chain := _scores(view, found[0])):
            yield chain


def _scores(view: _View, value: ir.Value) -> _Nodes:
    reached: dict[ir.Value, _Nodes] = {}

    def walk(value: ir.Value) -> _Nodes:
        if value in reached:
            return reached[value]
        reached[value] = _NONE
        node = view.producer(value)
        if node is None or len(reached) > _CHAIN_NODES:
            return _NONE
        if _is(node, "MatMul"):
            nodes = _NONE if any(view.is_static(operand) for operand in node.inputs) else frozenset({node})
        else:
            nodes = _NONE.union(*(walk(operand) for operand in _score_operands(view, node)))
            nodes |= {node} if nodes else _NONE
        reached[value] = nodes
        return nodes

    return walk(value)


def _score_operands(view: _View, node: ir.Node) -> list[ir.Value]:
    """The operands of a node between MatMul and softmax that can be the scores."""
    operands: Iterable[ir.Value | None] = ()
    if _is(node, "Mul", "Div"):
        operands = [_unscaled(view, node)]
    elif _is(node, "Add"):
        operands = node.inputs
    elif _is(node, "Where"):
        operands = node.inputs[1:]
    elif _is(node, "Sub", "Transpose", "Flatten", *_PLUMBING):
        operands = node.inputs[:1]
    return [operand for operand in operands if operand is not None and not view.is_static(operand)]


# --- GELU -------------------------------------------------------------------------------------------

# A polynomial in x and t, the value of the Erf, Tanh or Sigmoid: exponents of both -> factor.
# Comparing polynomials covers every order in which an exporter may write the same formula.
_Polynomial = dict[tuple[int, int], float]
_Expansion = tuple[_Polynomial, _Nodes]
_IS_X: _Expansion = ({(1, 0): 1.0}, _NONE)
_IS_T: _Expansion = ({(0, 1): 1.0}, _NONE)
_HALF_SUM: _Polynomial = {(1, 0): 0.5, (1, 1): 0.5}
_GELU_FORMS: Mapping[str, tuple[_Polynomial, _Polynomial]] = {  # the function -> its argument, the whole
    "Erf": ({(1, 0): math.sqrt(0.5)}, _HALF_SUM),
    "Tanh": ({(1, 0): math.sqrt(2 / math.pi), (3, 0): 0.044715 * math.sqrt(2 / math.pi)}, _HALF_SUM),
    "Sigmoid": ({(1, 0): 1.702}, {(1, 1): 1.0}),
}
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow", "Neg")
_TOLERANCE = 5e-3  # exporters round the constants, to float16 or to three digits
_MAX_DEGREE = 4
_MAX_TERMS = 24  # values looked at for one polynomial
_MAX_CANDIDATES = 16
_MAX_STEPS_FORWARD = 8


def _gelu(view: _View) -> Iterator[_Nodes]:
    """The fused operators; the erf, tanh and sigmoid(1.702 x) formulas in any order of operands."""
    for node in view.order:
        quick = (node.domain, node.op_type) == (_MICROSOFT, "QuickGelu")
        if (node.domain, node.op_type) in _GELU_OPS or (
            quick and math.isclose(node.attributes.get_float("alpha", 1.702), 1.702, rel_tol=_TOLERANCE)
        ):
            yield frozenset({node})
        elif _is(node, *_GELU_FORMS) and (nodes := _gelu_around(view, node)):
            yield nodes


def _gelu_around(view: _View, function: ir.Node) -> _Nodes | None:
    argument = function.inputs[0]
    if argument is None:
        return None
    inner, whole = _GELU_FORMS[function.op_type]
    for x in _candidates(view, argument):
        found = _expand(view, argument, {x: _IS_X})
        if found and _close(found[0], inner) and (outer := _reaches(view, x, function, whole)):
            return found[1] | outer | {function}
    return None


def _candidates(view: _View, argument: ir.Value) -> list[ir.Value]:
    """The values, nearest first, that a polynomial may be a polynomial of."""
    values = [view.strip(argument)[0]]
    for value in values:
        node = view.producer(value)
        if node is not None and _is(node, *_ARITHMETIC):
            for operand in node.inputs:
                if operand is not None and not view.is_static(operand):
                    origin = view.strip(operand)[0]
                    if origin not in values and len(values) < _MAX_CANDIDATES:
                        values.append(origin)
    return values


def _reaches(view: _View, x: ir.Value, function: ir.Node, whole: _Polynomial) -> _Nodes | None:
    """The nodes from the function's value to the one that holds the whole formula."""
    t = function.outputs[0]
    front = [t]
    for _ in range(_MAX_STEPS_FORWARD):
        onward = []
        for value in front:
            for user in view.users(value):
                if not _is(user, *_ARITHMETIC, *_PLUMBING):
                    continue
                found = _expand(view, user.outputs[0], {x: _IS_X, t: _IS_T})
                if found is None:
                    continue
                if _close(found[0], whole):
                    return found[1]
                onward.append(user.outputs[0])
        front = list(dict.fromkeys(onward))
    return None


def _close(left: _Polynomial, right: _Polynomial) -> bool:
    return all(
        math.isclose(left.get(term, 0.0), right.get(term, 0.0), rel_tol=_TOLERANCE, abs_tol=1e-6)
        for term in left.keys() | right.keys()
    )


def _expand(view: _View, value: ir.Value, known: dict[ir.Value, _Expansion | None]) -> _Expansion | None:
    """The polynomial that a value is and the nodes that compute it; None if it is none.

    `known` starts with x and t, grows with what was found, and bounds the search by its size.
    """
    constant = view.scalar(value)
    if constant is not None:
        return {(0, 0): constant}, _NONE
    origin, passed = view.strip(value)
    if origin not in known:
        node = view.producer(origin)
        if node is None or not _is(node, *_ARITHMETIC) or len(known) > _MAX_TERMS:
            return None
        known[origin] = None
        known[origin] = _compute(view, node, known)
    expansion = known[origin]
    if expansion is None or expansion == _IS_X:
        return expansion  # what lies between x and its use belongs to x
    return expansion[0], expansion[1] | passed


def _compute(view: _View, node: ir.Node, known: dict[ir.Value, _Expansion | None]) -> _Expansion | None:
    operands = []
    nodes = frozenset({node})
    for operand in node.inputs:
        expansion = None if operand is None else _expand(view, operand, known)
        if expansion is None:
            return None
        operands.append(expansion[0])
        nodes |= expansion[1]
    result = _combine(node.op_type, operands)
    return None if result is None else (result, nodes)


def _combine(op_type: str, operands: list[_Polynomial]) -> _Polynomial | None:
    left = operands[0]
    right = operands[1] if len(operands) > 1 else {(0, 0): -1.0}  # Neg
    constant = right.get((0, 0), 0.0) if right.keys() == {(0, 0)} else 0.0
    result: _Polynomial | None = None
    if op_type in ("Mul", "Neg"):
        result = _times(left, right)
    elif op_type in ("Add", "Sub"):
        sign = 1.0 if op_type == "Add" else -1.0
        terms = left.keys() | right.keys()
        result = {term: left.get(term, 0.0) + sign * right.get(term, 0.0) for term in terms}
    elif op_type == "Div" and constant:
        result = _times(left, {(0, 0): 1 / constant})
    elif op_type == "Pow" and constant in range(1, _MAX_DEGREE + 1):
        result = left
        for _ in range(int(constant) - 1):
            result = None if result is None else _times(result, left)
    return result


def _times(left: _Polynomial, right: _Polynomial) -> _Polynomial | None:
    result: _Polynomial = {}
    for (a, b), first in left.items():
        for (c, d), second in right.items():
            if a + b + c + d > _MAX_DEGREE:
                return None
            result[a + c, b + d] = result.get((a + c, b + d), 0.0) + first * second
    return result


# --- residual additions -----------------------------------------------------------------------------

_WALK_BACK = 128  # tensors; an attention block written out with rotary embeddings has about 80 nodes
# How an operand of the Add descends from a tensor, one bit each; shifted by 3 for the second operand.
_DIRECT, _INDIRECT, _WEIGHTS = 1, 2, 4
_SECOND = 3


def _residual_add(view: _View) -> Iterator[_Nodes]:
    """The Add whose operands meet again, going back, in one tensor: one operand (or both) gets there
    through a Conv, ConvTranspose, Gemm or MatMul, the other is that tensor (or a reshape of it)."""
    ids: dict[ir.Value, int] = {}
    parents: list[tuple[int, ...]] = []  # by id; ids grow along the graph
    through: list[tuple[int, ...]] = []  # by id: what each kind of descent becomes behind the producer

    def number(value: ir.Value, node: ir.Node | None) -> int:
        if value not in ids:
            ids[value] = len(parents)
            sources = [] if node is None else [source for source in node.inputs if not view.is_static(source)]
            parents.append(tuple(ids[source] for source in sources if source is not None and source in ids))
            through.append(_descent(node))
        return ids[value]

    for node in view.order:
        for value in node.inputs:
            if value is not None and not view.is_static(value):
                number(value, None)  # an input of the graph: whatever a node made has its number
        for value in node.outputs:
            if not view.is_static(value):
                number(value, node)
        pair = _pair(node) if _is(node, "Add") else None
        if pair is None or any(map(view.is_static, pair)):
            continue
        if _meet(ids[pair[0]], ids[pair[1]], parents, through):
            yield frozenset({node})


def _descent(node: ir.Node | None) -> tuple[int, ...]:
    """For each set of bits, the set one node further back."""
    if node is not None and _is(node, *_WEIGHTED):
        return tuple(_WEIGHTS if bits else 0 for bits in range(8))
    if node is not None and _is(node, "Transpose", "Flatten", "Dropout", *_PLUMBING):
        return tuple(range(8))
    return tuple((bits & _WEIGHTS) | (_INDIRECT if bits & (_DIRECT | _INDIRECT) else 0) for bits in range(8))


def _meet(first: int, second: int, parents: list[tuple[int, ...]], through: list[tuple[int, ...]]) -> bool:
    """Walk back from both tensors, latest first, to the nearest that both descend from."""
    if first == second:
        return False
    bits = {first: _DIRECT, second: _DIRECT << _SECOND}
    heap = [-first, -second]
    heapq.heapify(heap)
    for _ in range(_WALK_BACK):
        if not heap:
            return False
        latest = -heapq.heappop(heap)
        one, two = bits[latest] & 7, bits[latest] >> _SECOND
        if one and two:
            return bool((one & _WEIGHTS and two & ~_INDIRECT) or (two & _WEIGHTS and one & ~_INDIRECT))
        step = through[latest]
        passed = step[one] | step[two] << _SECOND
        for parent in parents[latest]:
            if parent in bits:
                bits[parent] |= passed
            else:
                bits[parent] = passed
                heapq.heappush(heap, -parent)
    return False


_Finder = Callable[[_View], Iterator[_Nodes]]

PATTERNS: Mapping[str, _Finder] = MappingProxyType(
    {
        "layernorm": _layernorm,
        "softmax": _softmax,
        "logsoftmax": _logsoftmax,
        "attention-scores": _attention_scores,
        "gelu": _gelu,
        "residual-add": _residual_add,
    }
)
