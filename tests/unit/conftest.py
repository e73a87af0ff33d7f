"""Toy models for the unit tests: ONNX text and weights -> a file, an opened Model, its outputs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx.parser
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from calibrators.shards import ShardSet
from trtbuild.model.model import Model
from trtbuild.targets.session import open_session

Arrays = Mapping[str, NDArray[Any]]


@pytest.fixture(scope="session")
def toy() -> Callable[..., onnx.ModelProto]:
    """A model from the ONNX text of its graph (and functions), and its larger weights by name."""

    def make(
        text: str, weights: Arrays | None = None, *, opset: int = 17, ir_version: int = 8, domains: str = ""
    ) -> onnx.ModelProto:
        imports = "".join(f', "{domain}": 1' for domain in domains.split())
        model = onnx.parser.parse_model(
            f'<ir_version: {ir_version}, opset_import: ["": {opset}{imports}]> {text}'
        )
        for name, array in (weights or {}).items():
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
        return model

    return make


@pytest.fixture(scope="session")
def write_toy(
    toy: Callable[..., onnx.ModelProto], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """The same as a file, or a model that is made already, each in a folder of its own."""
    numbers = itertools.count()

    def write(model: str | onnx.ModelProto, weights: Arrays | None = None, **options: Any) -> Path:
        proto = toy(model, weights, **options) if isinstance(model, str) else model
        path = tmp_path_factory.mktemp(f"toy{next(numbers)}") / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        return path

    return write


@pytest.fixture(scope="session")
def open_toy(write_toy: Callable[..., Path]) -> Callable[..., Model]:
    """The same, opened."""
    return lambda *model, **options: Model.open(write_toy(*model, **options))


@pytest.fixture(scope="session")
def run() -> Callable[..., dict[str, NDArray[Any]]]:
    """What a model makes of its inputs in ONNX Runtime, unoptimised."""

    def outputs(model: ir.Model, feeds: Arrays) -> dict[str, NDArray[Any]]:
        session = open_session(model)
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))

    return outputs


@pytest.fixture
def write_shards(tmp_path: Path) -> Callable[..., ShardSet]:
    """A shard of each of the feeds, in a folder of their own."""
    numbers = itertools.count()

    def write(model: Model, *feeds: Arrays, may_batch: bool = True) -> ShardSet:
        folder = tmp_path / f"shards{next(numbers)}"
        folder.mkdir()
        for index, arrays in enumerate(feeds):
            np.savez(folder / f"{index:03}.npz", **arrays)
        return ShardSet.open(folder, model.inputs, may_batch=may_batch)

    return write
