"""What of a model golden and candidate are compared on, and why the rest is not."""

from __future__ import annotations

from dataclasses import dataclass

from trtbuild.model.graph import activations
from trtbuild.model.model import Model
from trtbuild.targets.base import Side

REMOVED = "folded or inlined when the model was normalised"
HIDDEN = "bfloat16, which ONNX Runtime cannot hand out; the layers after it are compared"
OUTPUTS_ONLY = "the golden is a stored one, which has outputs only"


@dataclass(frozen=True)
class Scope:
    """The tensors that the gate compares and those of the layer diff, in graph order. `layers` is None where
    the golden has outputs only. `not_checked`: node or tensor -> why."""

    outputs: tuple[str, ...]
    layers: tuple[str, ...] | None
    not_checked: dict[str, str]


def scope_of(model: Model, golden: Side, candidate: Side) -> Scope:
    """What both sides can run. A candidate that shows less than the golden does not narrow it."""
    whole = golden.whole and candidate.whole
    not_checked = dict.fromkeys(model.removed, REMOVED)
    if not whole:
        not_checked = {**model.unrunnable, **not_checked, **dict.fromkeys(model.hidden, HIDDEN)}
    if golden.shows == "outputs":
        return Scope(outputs_of(model, whole), None, {**not_checked, "layers": OUTPUTS_ONLY})
    return Scope(outputs_of(model, whole), _layers(model) if whole else model.compared, not_checked)


def outputs_of(model: Model, whole: bool) -> tuple[str, ...]:
    """What the gate looks at, where every node is run and where only what ONNX Runtime can run is."""
    return tuple(str(value.name) for value in model.graph.outputs) if whole else model.checked_outputs


def _layers(model: Model) -> tuple[str, ...]:
    """Every float activation that the file as given and the normalised model share."""
    given = set(model.given)
    return tuple(str(value.name) for value in activations(model.graph) if value.name in given)
