"""OnnxParser: TensorRT-RTX's, with what older ones could not do refused as they refused it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx
from google.protobuf.message import DecodeError

from .naming import as_older
from .native import Native, expect

_IMPLICIT_BATCH = (
    'Assertion failed: !_importer_ctx.network()->hasImplicitBatchDimension() && "This version of the ONNX '
    "parser only supports TensorRT INetworkDefinitions with an explicit batch dimension. Please ensure the "
    'network was created using the EXPLICIT_BATCH NetworkDefinitionCreationFlag."'
)

_NO_PLUGIN = (
    'Assertion failed: creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
)
# operators for which the real parser of 8.5 has no importer, and today's has
_NEW = {"LayerNormalization": (8, 6), "GroupNormalization": (8, 6), "Mish": (10,), "Gelu": (10,)}


class ParserError(Native):
    __slots__ = ("_code", "_desc", "_node", "_operator", "_where")

    def code(self) -> Any:
        return self._code

    def desc(self) -> str:
        return str(self._desc)

    def node(self) -> int:
        return int(self._node)

    def file(self) -> str:
        return "ModelImporter.cpp"

    def func(self) -> str:
        return "importModel"

    def line(self) -> int:
        return 0


class NamedParserError:
    """Mixed into ParserError where it tells the node's name, not only its index."""

    __slots__ = ()

    def node_name(self: Any) -> str:
        return str(self._where)

    def node_operator(self: Any) -> str:
        return str(self._operator)


class OnnxParser(Native):
    __slots__ = ("_errors", "_flags", "_logger", "_network", "_real")

    def __init__(self, network: Any, logger: Any) -> None:
        self._network = expect(network, self._trt.INetworkDefinition, "OnnxParser")
        self._logger = expect(logger, self._trt.ILogger, "OnnxParser")
        self._real = self._trt._rtx.OnnxParser(network._real, network._builder._rtx_logger)
        self._errors: list[Any] = []
        self._flags = 0

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()
        self._real.clear_errors()

    def supports_operator(self, op_name: str) -> bool:
        return bool(self._real.supports_operator(op_name)) and not self._too_new(op_name)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        nodes = onnx.load_from_string(bytes(model)).graph.node
        return self._parsed(nodes, lambda: self._real.parse(model, *([path] if path else [])))

    def parse_from_file(self, model: str) -> bool:
        """A file that is not there, or no model, is an error of the parser, no exception."""
        path = expect(model, str, "parse_from_file")
        try:
            nodes = onnx.load(path, load_external_data=False).graph.node
        except (OSError, DecodeError):
            nodes = []
        return self._parsed(nodes, lambda: self._real.parse_from_file(path))

    def _parsed(self, nodes: Sequence[Any], parse: Callable[[], bool]) -> bool:
        """The parser stops at the first node that it cannot take."""
        if self._network._implicit_batch():
            return self._refuse("INVALID_VALUE", _IMPLICIT_BATCH, -1)
        for index, node in enumerate(nodes):
            if self._too_new(node.op_type):
                return self._refuse("UNSUPPORTED_NODE", _NO_PLUGIN, index, node.name, node.op_type)
        done = bool(parse())
        for error in (self._real.get_error(index) for index in range(self._real.num_errors)):
            name, operator = error.node_name(), error.node_operator()
            self._refuse(
                _known(self._trt.ErrorCode, error.code().name), error.desc(), error.node(), name, operator
            )
        if done:
            as_older(self._network)
        return done

    def _too_new(self, operator: str) -> bool:
        return operator in _NEW and self._trt._version < _NEW[operator]

    def _refuse(self, code: str, desc: str, node: int, name: str = "", operator: str = "") -> bool:
        made = self._trt.ParserError._make(
            _code=getattr(self._trt.ErrorCode, code), _desc=desc, _node=node, _where=name, _operator=operator
        )
        self._errors.append(made)
        self._network._builder._tell("ERROR", f"ModelImporter.cpp: In node {node}: {code}: {desc}")
        return False


class FlaggedParser:
    """Mixed into OnnxParser from TensorRT 8.6 on."""

    __slots__ = ()

    def set_flag(self: Any, flag: Any) -> None:
        self._flags |= 1 << int(expect(flag, self._trt.OnnxParserFlag, "set_flag"))

    def get_flag(self: Any, flag: Any) -> bool:
        return bool(self._flags >> int(expect(flag, self._trt.OnnxParserFlag, "get_flag")) & 1)


def _known(codes: Any, name: str) -> str:
    """Older parsers give the kind of an error less exactly."""
    return name if hasattr(codes, name) else "UNSUPPORTED_NODE"
