"""Model: an ONNX file, opened: the graph as given and the normalised one, hashed and checked."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from calibrators.shards import InputSpec
from trtbuild.errors import InputError
from trtbuild.model import files
from trtbuild.model.foreign import checked
from trtbuild.model.graph import QDQ, activations, fed_values, may_be_float
from trtbuild.model.infer import infer_types
from trtbuild.model.normalise import Normalisation, normalise
from trtbuild.model.runnable import unregistered_operators, unrunnable
from trtbuild.model.scaling import Scaled


@dataclass(frozen=True)
class Model:
    """An opened ONNX model. `normalised` must not be changed: rewriters clone it.

    `unrunnable` maps the nodes that ONNX Runtime cannot run to the reason; they are built, but
    neither calibrated nor checked. `given` are the float activations of the file as it was given. `scaled`
    are those activations that the normalised graph of an equalized model holds at other magnitudes than
    the file does; inputs and outputs never are.
    """

    path: Path
    sha256: str
    normalised: ir.Model
    normalisation: Normalisation
    unrunnable: dict[str, str]
    given: tuple[str, ...]
    scaled: Scaled = field(default_factory=dict)

    @classmethod
    def open(cls, path: Path) -> Model:
        """Load, check and normalise. Raises InputError for anything that is not a usable model."""
        model = files.read(path)
        sha256 = files.fingerprint(path, model)
        files.take_in(model)
        try:
            with checked():
                given = tuple(_fed_floats(_with_types(model)))
                strangers = unregistered_operators(model.graph)
            normalisation = normalise(model, strangers)
            with checked():
                excluded = unrunnable(model)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return cls(path, sha256, model, normalisation, excluded, given)

    @property
    def graph(self) -> ir.Graph:
        return self.normalised.graph

    @functools.cached_property
    def quantized(self) -> bool:
        """Whether the file carries Q/DQ already (quantization-aware training)."""
        return any(node.op_type in QDQ for node in self.graph)

    @functools.cached_property
    def inputs(self) -> tuple[InputSpec, ...]:
        """The inputs that a caller feeds. Raises InputError for one that is not a plain tensor."""
        return tuple(_spec(value, self.path) for value in self.graph.inputs)

    @functools.cached_property
    def compared(self) -> tuple[str, ...]:
        """The float activations that golden and candidate must both show, in graph order."""
        given, hidden = set(self.given), set(self.hidden)
        floats = _fed_floats(self.normalised, skip=self.unrunnable)
        return tuple(name for name in floats if name in given and name not in hidden)

    @functools.cached_property
    def hidden(self) -> tuple[str, ...]:
        """Activations in bfloat16, which ONNX Runtime cannot hand out as an array: not compared."""
        return tuple(
            str(value.name) for value in activations(self.graph) if value.dtype == ir.DataType.BFLOAT16
        )

    @functools.cached_property
    def removed(self) -> tuple[str, ...]:
        """Float activations of the file that normalising took away (folded or inlined): not compared."""
        kept = {value.name for value in activations(self.graph)}
        return tuple(name for name in self.given if name not in kept)

    @functools.cached_property
    def checked_outputs(self) -> tuple[str, ...]:
        """What the gate looks at: the model outputs that ONNX Runtime can compute, then the
        activations that go into the part it cannot run."""
        outputs = (
            str(value.name) for value in self.graph.outputs if _producer_name(value) not in self.unrunnable
        )
        inputs_of_the_rest = (
            value
            for node in self.graph
            if node.name in self.unrunnable
            for value in node.inputs
            if value is not None and value.producer() and _producer_name(value) not in self.unrunnable
        )
        return tuple(dict.fromkeys([*outputs, *(str(value.name) for value in inputs_of_the_rest)]))


def _with_types(model: ir.Model) -> ir.Model:
    """A copy of the model as given with inferred types: needed to know what is a float."""
    copy = model.clone()
    infer_types(copy)
    return copy


def _fed_floats(model: ir.Model, skip: Mapping[str, str] | None = None) -> list[str]:
    fed = fed_values(model.graph)
    return [
        str(value.name)
        for value in activations(model.graph)
        if value in fed and may_be_float(value) and _producer_name(value) not in (skip or {})
    ]


def _producer_name(value: ir.Value) -> str:
    node = value.producer()
    return str(node.name) if node else ""


def _spec(value: ir.Value, path: Path) -> InputSpec:
    if value.shape is None or not isinstance(value.type, ir.TensorType) or not value.dtype:
        raise InputError(f"{path}: input {value.name!r} is not a tensor of known type and rank")
    shape = tuple(dim if isinstance(dim, int) and dim > 0 else None for dim in value.shape)
    dtype: np.dtype[Any] = value.dtype.numpy()
    return InputSpec(name=str(value.name), dtype=dtype, shape=shape)
