"""The protocol that every target keeps, and what passes through it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from calibrators.shards import ShardSet
from calibrators.table import RangeTable, TableKey
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import InputSection, Precision, Recipe
from trtbuild.rewrite.biases import Corrections

Algorithm = Literal["entropy", "minmax"]


@dataclass(frozen=True)
class Calibration:
    """TensorRT itself takes the ranges, while it builds: by which algorithm, and from which samples. `key` is
    what the resulting table is stored by."""

    algorithm: Algorithm
    shards: ShardSet
    key: TableKey


@dataclass(frozen=True)
class Request:
    """Everything that a build depends on. `profiles` holds a shape range for every dynamic input.

    The ranges of an int8 build are in `table`; without one they come from `calibration`. `biases`: what is
    taken off the biases of int8 nodes in the explicit model.
    """

    model: Model
    precisions: PrecisionMap
    table: RangeTable | None
    profiles: Mapping[str, InputSection]
    recipe: Recipe
    calibration: Calibration | None = None
    biases: Corrections = field(default_factory=dict)


@dataclass(frozen=True)
class Layer:
    """One layer of what was built: the ONNX nodes it executes, and the precision it really has; "unknown"
    where what was built does not show it. `reads_int8`: something that it reads as float was written as int8
    and converted back."""

    name: str
    type: str
    nodes: tuple[str, ...]
    precision: Precision | Literal["unknown"]
    reads_int8: bool = False


@dataclass(frozen=True)
class Built:
    """`layers` are read back from what was built; `facts` (versions, options) go into the manifest.

    `table`: the ranges that TensorRT found, where it was to find them. `executed`: how many layers run when
    those that compute no floats are counted too, as many as `layers` where None; `reformats`: how many of
    them only change a tensor's format or type.
    """

    layers: tuple[Layer, ...]
    facts: dict[str, Any]
    table: RangeTable | None = None
    reformats: int = 0
    executed: int | None = None


class Runner(Protocol):
    """Something active that runs a model; Polygraphy's runners are such."""

    @property
    def name(self) -> str: ...

    def infer(self, feed_dict: dict[str, Any], check_inputs: bool = ...) -> Mapping[str, Any]:
        """Outputs by name, in the dtypes of the model. What was returned stays as it is when this is called
        again. Raises InputError for feeds that it cannot take; whatever else a runner raises is translated
        by `session.infer`."""


class LayerRunner(Runner, Protocol):
    """Runs layers apart from each other: `infer` takes, beside the model's inputs, activations by name."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The activations that it must be given; others, and inputs that it does not need, may be there."""


class Dissection(Protocol):
    """Of a side whose nodes can be taken apart and run otherwise than the side itself runs them."""

    def layerwise(
        self, tensors: Sequence[str], fed: Mapping[str, np.dtype[Any]]
    ) -> AbstractContextManager[LayerRunner]:
        """Computes these activations, each from what is given in place of those of `fed` (activation -> the
        dtype that the side has it in); those of `tensors` that are in `fed` are computed all the same."""

    def otherwise(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        """Shows these activations of the same model, rounded otherwise: at another optimisation level."""


Shows = Literal["layers", "unfused layers", "outputs"]


class Side(Protocol):
    """One side of a golden diff. Compared is what both sides run; what only one of them has never passes."""

    @property
    def name(self) -> str: ...
    @property
    def caveat(self) -> str | None:
        """What the reader must know when it is not the thing itself that runs."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The model's outputs, in the order in which a caller finds them."""

    @property
    def whole(self) -> bool:
        """Whether it runs every node and shows every dtype. Where both sides do, the model's outputs and all
        its float activations are compared, otherwise `Model.checked_outputs` and `Model.compared`."""

    @property
    def shows(self) -> Shows:
        """What `showing` has. "layers": each activation that it is asked for; one that is missing fails the
        gate. "unfused layers": those that the builder did not fuse away; the others are listed as not
        checked. "outputs": no activations at all (a stored golden)."""

    @property
    def layer_bytes(self) -> int | None:
        """How many bytes of activations `showing` may be asked for at once; None: any number."""

    @property
    def dissection(self) -> Dissection | None:
        """None where layers cannot be run apart: inside a TensorRT engine, in a stored golden."""

    @property
    def profiles(self) -> Mapping[str, InputSection]:
        """The shapes that it takes, by input; any shape where an input is not in it."""

    def shipped(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        """A runner over what ships, with nothing exposed but what it shows anyway, of which these tensors
        are asked for."""

    def showing(self, tensors: Sequence[str]) -> AbstractContextManager[Runner]:
        """A runner that shows these activations too, as far as it has them: for diagnosis."""


class Target(Protocol):
    """A thing to build for."""

    name: str
    artifact: str
    """File name of what is built, inside a build's folder."""
    implicit: bool
    """Whether the builder decides on the precision of whatever is not pinned (implicit quantization)."""

    def require(self) -> None:
        """Raise MachineError, naming what is missing and how to install it, unless this machine can build."""

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """What of this target goes into a build's key: versions and options."""

    def ranges(self, model: Model) -> tuple[str, ...]:
        """The activations that an int8 build needs a range for, whatever the pins."""

    def algorithm(self, recipe: Recipe) -> Algorithm | None:
        """By which algorithm TensorRT finds the ranges itself; None: they are those of our own table."""

    def check_cache(self, header: str, recipe: Recipe) -> None:
        """Raise InputError unless TensorRT would take a calibration cache with this header."""

    def layer_types(self, model: Model) -> Mapping[str, frozenset[str]]:
        """ONNX node -> the types of the TensorRT layers that it becomes; empty where there is no TensorRT."""

    def build(self, request: Request, path: Path) -> Built:
        """Build into the file `path` and read its layers back. Raises BuildError when refused."""

    def golden(self, request: Request, folder: Path | None) -> Side:
        """The float32 reference on this machine: the model file as it was given. What it takes long to make
        is kept in `folder`."""

    def candidate(self, request: Request, path: Path) -> Side:
        """What stands for the build `path` in a golden diff on this machine."""
