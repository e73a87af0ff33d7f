"""The protocol that every target keeps, and what passes through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx_ir as ir

from calibrators.table import RangeTable
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import InputSection, Precision, Recipe


@dataclass(frozen=True)
class Request:
    """Everything that a build depends on. `profiles` holds a shape range for every dynamic input."""

    model: Model
    precisions: PrecisionMap
    table: RangeTable | None
    profiles: Mapping[str, InputSection]
    recipe: Recipe


@dataclass(frozen=True)
class Layer:
    """One layer of what was built: the ONNX nodes it executes, and the precision it really has."""

    name: str
    type: str
    nodes: tuple[str, ...]
    precision: Precision


@dataclass(frozen=True)
class Built:
    """`layers` are read back from what was built; `facts` (versions, options) go into the manifest."""

    layers: tuple[Layer, ...]
    facts: dict[str, Any]


class Target(Protocol):
    """A thing to build for."""

    name: str
    artifact: str
    """File name of what is built, inside a build's folder."""

    def require(self) -> None:
        """Raise MachineError, naming what is missing and how to install it, unless this machine can build."""

    def identity(self, recipe: Recipe) -> dict[str, Any]:
        """What of this target goes into a build's key: versions and options."""

    def build(self, request: Request, path: Path) -> Built:
        """Build into the file `path` and read its layers back. Raises BuildError when refused."""

    def candidate(self, request: Request, path: Path) -> tuple[ir.Model, str | None]:
        """The model that stands for the build in a golden diff on this machine, and a caveat if it is
        not the built file `path` itself that runs."""
