"""Toy models, what to build from them, and the targets that build them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import pytest
from numpy.typing import NDArray

from calibrators.table import Range, RangeTable
from trtbuild.errors import MachineError
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.profiles import profiles_of
from trtbuild.recipe import InputSection, Pin, parse
from trtbuild.rewrite.explicit import ranges_needed
from trtbuild.targets.base import Request, Target
from trtbuild.targets.choose import by_name
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit

Weight = tuple[int, ...] | NDArray[Any]


@dataclass(frozen=True)
class Toy:
    """A model as ONNX text; a node is called Operator_output. A weight given as a shape is random."""

    body: str
    inputs: str = "float[2,4,8,8] x"
    outputs: str = "float[a,b,c,d] y"
    weights: Mapping[str, Weight] = field(default_factory=dict)
    profiles: Mapping[str, InputSection] = field(default_factory=dict)
    domains: str = ""

    def write(self, path: Path) -> Path:
        head = f'<ir_version: 9, opset_import: ["": 18{self.domains}]>'
        model = onnx.parser.parse_model(f"{head} toy ({self.inputs}) => ({self.outputs}) {{ {self.body} }}")
        rng = np.random.default_rng(0)
        for name, weight in self.weights.items():
            random = isinstance(weight, tuple)
            array = (rng.standard_normal(weight) * 0.3).astype(np.float32) if random else weight
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        onnx.save(model, path)
        return path


def _constant(value: Any, dtype: str = "float32") -> NDArray[Any]:
    return np.asarray(value, dtype)


TOYS = {
    "residual": Toy(
        "c1 = Conv<pads = [1,1,1,1]>(x, w1, bias) n1 = BatchNormalization(c1, scale, bias, mean, var)"
        "r1 = Relu(n1) c2 = Conv<pads = [1,1,1,1]>(r1, w2) s = Add(c2, r1) y = Relu(s)",
        weights={
            "w1": (4, 4, 3, 3),
            "w2": (4, 4, 3, 3),
            "bias": (4,),
            "scale": _constant([1, 0.5, 2, 1]),
            "mean": (4,),
            "var": _constant([1, 2, 3, 4]),
        },
    ),
    "attention": Toy(
        "q = MatMul(x, wq) k = MatMul(x, wk) v = MatMul(x, wv) kt = Transpose<perm = [0,2,1]>(k)"
        "qk = MatMul(q, kt) p = Softmax(qk) o = MatMul(p, v) flat = Reshape(o, shape) y = MatMul(flat, wo)",
        inputs="float[2,4,8] x",
        outputs="float[a,b] y",
        weights={
            "wq": (8, 8),
            "wk": (8, 8),
            "wv": (8, 8),
            "wo": (8, 3),
            "shape": _constant([8, 8], "int64"),
        },
    ),
    "gemm": Toy(
        "a = Gemm(x, w1, b1) r = Relu(a) b = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(r, w2, b2)"
        "y = Gemm(b, w3)",
        inputs="float[2,8] x",
        outputs="float[a,b] y",
        weights={"w1": (8, 6), "b1": (6,), "w2": (5, 6), "b2": (5,), "w3": (5, 3)},
    ),
    "conv-transpose": Toy(
        "a = ConvTranspose<strides = [2,2]>(x, w1, b1) y = ConvTranspose<group = 2>(a, w2)",
        weights={"w1": (4, 6, 3, 3), "b1": (6,), "w2": (6, 2, 2, 2)},
    ),
    "depthwise": Toy(
        "a = Conv<group = 4, pads = [1,1,1,1]>(x, w1) h = HardSwish(a) b = Conv(h, w2)"
        "m = GlobalAveragePool(b) y = Mul(b, m)",
        weights={"w1": (4, 1, 3, 3), "w2": (6, 4, 1, 1)},
    ),
    "conv1d": Toy(
        "a = Conv(x, w1, b1) t = Tanh(a) y = Conv<group = 4>(t, w2)",
        inputs="float[2,3,16] x",
        outputs="float[a,b,c] y",
        weights={"w1": (4, 3, 3), "b1": (4,), "w2": (4, 1, 3)},
    ),
    "dynamic": Toy(
        "c = Conv<pads = [1,1,1,1]>(x, w1) r = Relu(c) g = GlobalAveragePool(r) f = Flatten(g)"
        "y = MatMul(f, w2)",
        inputs="float[n,3,h,8] x",
        outputs="float[n,b] y",
        weights={"w1": (4, 3, 3, 3), "w2": (4, 5)},
        profiles={"x": InputSection(min=(1, 3, 4, 8), opt=(2, 3, 8, 8), max=(4, 3, 16, 8))},
    ),
    "two-inputs": Toy(
        "a = MatMul(x, w) s = Add(a, z) y = MatMul(s, z)",
        inputs="float[4,4] x, float[4,4] z",
        outputs="float[a,b] y",
        weights={"w": (4, 4)},
    ),
    "embedding": Toy(
        "e = Gather(table, ids) h = MatMul(e, w1) n = LayerNormalization(h, scale, shift) y = MatMul(n, w2)",
        inputs="int32[2,5] ids",
        outputs="float[a,b,c] y",
        weights={"table": (10, 8), "w1": (8, 8), "scale": (8,), "shift": (8,), "w2": (8, 4)},
    ),
    "if": Toy(
        "m = ReduceMean<keepdims = 0>(x) positive = Greater(m, zero) a = MatMul(x, w1)"
        "b = If(positive) <then_branch = yes () => (float[2,8] p) { p = MatMul(a, w2) },"
        " else_branch = no () => (float[2,8] q) { q = Neg(a) }> y = MatMul(b, w1)",
        inputs="float[2,8] x",
        outputs="float[a,b] y",
        weights={"w1": (8, 8), "w2": (8, 8), "zero": _constant(0)},
    ),
}
QAT = Toy(
    "xq = QuantizeLinear(x, xs, zero) xd = DequantizeLinear(xq, xs, zero)"
    "w = DequantizeLinear<axis = 0>(w8, ws, ws0) wt = Transpose<perm = [1,0]>(w)"
    "a = MatMul(xd, wt) y = Relu(a)",
    inputs="float[2,8] x",
    outputs="float[a,b] y",
    weights={
        "xs": _constant(0.05),
        "zero": _constant(0, "int8"),
        "w8": np.arange(-24, 24, dtype=np.int8).reshape(6, 8),
        "ws": _constant([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
        "ws0": np.zeros(6, np.int8),
    },
)
Toys = Callable[..., Path]
Requests = Callable[..., Request]


@pytest.fixture(params=["onnxruntime", "tensorrt-rtx"])
def target(request: pytest.FixtureRequest) -> Target:
    """Each target in turn; skipped, with the reason, where this machine cannot build for it."""
    return _usable(request.param)


@pytest.fixture
def rtx() -> Target:
    return _usable("tensorrt-rtx")


def _usable(name: str) -> Target:
    target = by_name(name)
    try:
        target.require()
    except MachineError as error:
        pytest.skip(str(error))
    return target


@pytest.fixture(params=TOYS)
def any_toy(request: pytest.FixtureRequest) -> str:
    """The name of each toy in turn that trtbuild may quantize."""
    return str(request.param)


@pytest.fixture
def toy(tmp_path: Path) -> Toys:
    """Write a toy model: by name, or from the fields of a Toy."""

    def write(name: str | None = None, **fields: Any) -> Path:
        made = Toy(**fields) if name is None else {**TOYS, "qat": QAT}[name]
        return made.write(tmp_path / "toy.onnx")

    return write


@pytest.fixture
def request_of(toy: Toys) -> Requests:
    """What to build from a toy (its name, or the path of a model); a range is 2 for every tensor that needs
    one. What else is given goes into the recipe's [tensorrt]."""

    def make(
        source: str | Path,
        default: str = "int8",
        *pins: str,
        fallback: str = "fp32",
        capabilities: tuple[str, ...] = ("8.9",),
        profiles: Mapping[str, InputSection] | None = None,
        implicit: bool = False,
        ranges: Sequence[str] | None = None,
        **tensorrt: Any,
    ) -> Request:
        model = Model.open(source if isinstance(source, Path) else toy(source))
        table = {
            "precision": {"default": default, "fallback": fallback},
            "tensorrt": tensorrt,
            "tensorrt-rtx": {"compute_capabilities": capabilities},
        }
        recipe = parse(table, "test")
        if profiles is None:
            profiles = TOYS[source].profiles if source in TOYS else {}
        if ranges is None:
            ranges = TensorRTImplicit().ranges(model) if implicit else ranges_needed(model)
        return Request(
            model=model,
            precisions=rules.resolve(model, recipe.precision, [Pin.parse(text) for text in pins], implicit),
            table=RangeTable({name: Range(2.0, "given") for name in ranges}, None, 1),
            profiles=profiles_of(model.inputs, profiles, None),
            recipe=recipe,
        )

    return make


@pytest.fixture(scope="session")
def feeds() -> Callable[..., dict[str, NDArray[Any]]]:
    """Seeded random inputs for a model; a dynamic axis is 8 long, integers stay below 10."""

    def make(model: Model, seed: int = 0) -> dict[str, NDArray[Any]]:
        rng = np.random.default_rng(seed)
        made = {}
        for spec in model.inputs:
            shape = tuple(8 if length is None else length for length in spec.shape)
            integral = np.issubdtype(spec.dtype, np.integer)
            made[spec.name] = (
                rng.integers(0, 10, shape).astype(spec.dtype)
                if integral
                else rng.standard_normal(shape).astype(spec.dtype)
            )
        return made

    return make
