"""Names, pins and ranges on the networks that a real parser makes of real models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.real_models import every_model, image_size
from trtbuild.model.graph import has_floats
from trtbuild.model.model import Model
from trtbuild.precision.forms import typed_by_model
from trtbuild.recipe import InputSection
from trtbuild.targets.audit import audit
from trtbuild.targets.base import Request
from trtbuild.targets.tensorrt_implicit import TensorRTImplicit

Requests = Callable[..., Request]
MASK = "jax2tf_get_logits_/Const_26:0"
"""A constant of magika's that holds -inf: no range is that wide."""


def profiles(path: Path) -> dict[str, InputSection]:
    (spec,) = Model.open(path).inputs
    free = zip(spec.shape, (1, 3, *image_size(path)), strict=False)
    shape = tuple(fixed or length for fixed, length in free)
    return {spec.name: InputSection(min=shape, opt=shape, max=shape)} if None in spec.shape else {}


@every_model
@pytest.mark.parametrize("version", ["8.5.1.7", "10.3.0"])
def test_every_node_can_be_pinned(
    path: Path, version: str, tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    """8.5 finds the layers of a node by tensors and names, 10.3 by metadata."""
    tensorrt(version)
    request = request_of(path, "int8", "re:.*", implicit=True, profiles=profiles(path))
    built = TensorRTImplicit().build(request, tmp_path / "engine.plan")
    audited = audit(request.precisions, built.layers, built.reformats, built.executed)
    assert audited.lost == ()
    assert set(audited.histogram) == {"fp32"}
    computing = {
        str(node.name) for node in request.model.graph if has_floats(node) and typed_by_model(node) is None
    }
    assert set(request.precisions.pinned) == computing
    assert audited.held + len(audited.removed) == len(computing)


@every_model
def test_only_the_pinned_nodes_are_held(
    path: Path, tensorrt: Callable[..., Any], request_of: Requests, tmp_path: Path
) -> None:
    tensorrt("8.5.1.7")
    request = request_of(path, "int8", "first:3", implicit=True, profiles=profiles(path))
    built = TensorRTImplicit().build(request, tmp_path / "engine.plan")
    audited = audit(request.precisions, built.layers, built.reformats, built.executed)
    assert (audited.lost, audited.held) == ((), 3)
    assert audited.unlowered == ()
    assert audited.reformats > 0
    without_range = [name for name in built.facts["without_range"] if not name.startswith("(Unnamed")]
    assert without_range == []
