"""The files of an ONNX model: parsed lazily, external data checked before a byte of it is read, hashed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

from trtbuild.digest import sha256
from trtbuild.errors import InputError, one_line

PROTOBUF_LIMIT = 2_000_000_000  # bytes; a larger model must keep its weights in a file beside it


def read(path: Path) -> ir.Model:
    """Parse an ONNX file; weights stay on disk until used.

    Raises InputError for a missing, truncated or invalid file, and for external data that lies
    outside the model's folder, is a link, or is shorter than the model says (CVE-2024-27318 and
    its successors: a model must not make us read other files).
    """
    if not path.is_file():
        raise InputError(f"{path}: no such model file")
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf, onnx-ir and the checks inside them share no base class
        raise InputError(
            f"{path}: not a readable ONNX model ({one_line(error)}); export or copy it again"
        ) from error
    _check_complete(model, path)
    for tensor in external_tensors(model):
        _check_external(tensor, path)
    return model


def save(model: ir.Model, path: Path, data: str | None = None) -> None:
    """Write an ONNX file; weights above protobuf's limit go into `<path>.data` (or `data`) beside it."""
    big = weight_bytes(model) > PROTOBUF_LIMIT
    ir.save(model, path, external_data=(data or data_of(path).name) if big else None)


def data_of(path: Path) -> Path:
    """Where `save` puts the weights of a model that is too big for one file."""
    return path.with_name(f"{path.name}.data")


def weight_bytes(model: ir.Model) -> int:
    values = model.graph.initializers.values()
    return sum(value.const_value.nbytes for value in values if value.const_value is not None)


def fingerprint(path: Path, model: ir.Model) -> str:
    """SHA-256 (hex) over the model file and its external data files, by content."""
    return sha256(sorted({path} | {Path(tensor.path) for tensor in external_tensors(model)}))


def external_tensors(model: ir.Model) -> Iterator[ir.ExternalTensor]:
    """Every tensor of the model, in any graph or attribute, whose data lies outside the file."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                yield value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if isinstance(attribute.value, ir.ExternalTensor):
                    yield attribute.value


def _check_complete(model: ir.Model, path: Path) -> None:
    if not model.graph.outputs or not len(model.graph):
        raise InputError(f"{path}: the ONNX graph has no nodes or no outputs; the file may be truncated")
    if "" not in model.opset_imports:
        raise InputError(f"{path}: imports no ONNX opset; the file may be truncated")
    inputs = set(model.graph.inputs)
    for node in model.graph:
        for value in node.inputs:
            if value is None or value.producer() or value.is_initializer() or value in inputs:
                continue
            raise InputError(
                f"{path}: node {node.name!r} reads {value.name!r}, which nothing produces; "
                "the file may be truncated"
            )


def _check_external(tensor: ir.ExternalTensor, path: Path) -> None:
    location, folder = str(tensor.location), path.parent
    what = f"{path}: tensor {tensor.name!r} has its data in {location!r}"
    if Path(location).is_absolute() or ".." in Path(location).parts:
        raise InputError(
            f"{what}, outside the model's folder; refused. Save the model with its data beside it"
        )
    file = folder
    for part in Path(location).parts:
        file = file / part
        if file.is_symlink():
            raise InputError(f"{what}, which is a symbolic link; refused. Copy the data beside the model")
    if not file.is_file():
        raise InputError(f"{what}, which does not exist beside the model; copy it there")
    status = os.stat(file)
    if status.st_nlink > 1:
        raise InputError(f"{what}, which is a hard link; refused. Copy the data beside the model")
    needed = (tensor.offset or 0) + (tensor.length or tensor.nbytes)
    if status.st_size < needed:
        raise InputError(
            f"{what}, which has {status.st_size} bytes where {needed} are needed; it is truncated"
        )
