"""The names of the double of the binding, and its calibrators, against the real things."""

from __future__ import annotations

import ast
import ctypes
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.targets.binding_double import calibration, make
from tests.targets.binding_double.session import VERSIONS

pytest.importorskip("tensorrt_rtx", reason="the double parses with tensorrt_rtx: pip install 'trtbuild[rtx]'")
STUBS = Path(__file__).resolve().parents[2] / ".venv/stubs/tensorrt_bindings/tensorrt.pyi"


def names_of(module: ModuleType) -> Iterator[tuple[str, set[str]]]:
    """Each class of the double, with the public names that the double gives it."""
    for name, kind in vars(module).items():
        if isinstance(kind, type) and not name.startswith("_"):
            own = {a for base in kind.__mro__ if base not in (object, bytearray) for a in vars(base)}
            yield name, {attribute for attribute in own if not attribute.startswith("_")}


def members(kind: Any) -> dict[str, int]:
    return {name: int(member) for name, member in getattr(kind, "__members__", {}).items()}


@pytest.fixture
def real() -> Any:
    """The real library, of which no part but Builder and Runtime needs a GPU."""
    try:
        import tensorrt
    except ImportError as error:
        pytest.skip(f"no TensorRT here: {error}")
    if not getattr(tensorrt, "__version__", "").startswith("8.5."):
        pytest.skip("the real library that is compared is TensorRT 8.5, which is there for CPython 3.10")
    return tensorrt


@pytest.mark.tensorrt
def test_the_double_has_no_name_that_tensorrt_8_5_lacks(real: Any) -> None:
    double = make(real.__version__)
    for name, own in names_of(double):
        assert own <= set(dir(getattr(real, name))), name
        # the real ones keep obsolete aliases of some values
        assert members(getattr(double, name)).items() <= members(getattr(real, name)).items(), name
        if name in ("BuilderFlag", "LayerType", "DataType", "TacticSource", "NetworkDefinitionCreationFlag"):
            assert members(getattr(double, name)) == members(getattr(real, name))


@pytest.mark.tensorrt
def test_enumerations_call_themselves_what_the_real_ones_do(real: Any) -> None:
    """An ErrorCode has a method in place of its name; an EngineCapability has a second, older one."""
    double = make(real.__version__)
    enumerations = {name for name, _ in names_of(double) if members(getattr(double, name))}
    for name in enumerations - {"EngineCapability"}:
        for value in members(getattr(double, name)):
            ours, theirs = (getattr(getattr(module, name), value) for module in (double, real))
            assert str(ours) == str(theirs) == f"{name}.{value}"
            assert callable(ours.name) == callable(theirs.name) == (name == "ErrorCode")
            assert callable(ours.name) or ours.name == theirs.name == value


BATCHES = {
    "list": lambda: [11, 12],
    "tuple": lambda: (11, 12),
    "array": lambda: np.array([11, 12]),
    "too short": lambda: [11],
    "empty": lambda: [],
    "none": lambda: None,
    "floats": lambda: [11.0, 12.0],
    "text": lambda: "ab",
    "error": lambda: 1 / 0,
    "Ctrl-C": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
}


@pytest.mark.tensorrt
@pytest.mark.parametrize("kind", BATCHES)
def test_calibrators_of_both_take_the_same_batches(
    kind: str, real: Any, capfd: pytest.CaptureFixture
) -> None:
    """The real calibrator is called as the library calls it: through its C++ interface."""

    def batch_of(trt: Any) -> Any:
        class Calibrator(trt.IInt8EntropyCalibrator2):
            def __init__(self) -> None:
                trt.IInt8EntropyCalibrator2.__init__(self)

            def get_batch(self, names: list[str]) -> Any:
                assert names == ["x", "z"]
                return BATCHES[kind]()

        return Calibrator()

    ours = calibration.next_batch(batch_of(make("8.5.1.7")), ["x", "z"])
    printed = capfd.readouterr().err
    theirs = batch_of(real)
    interface = ctypes.c_void_p.from_address(id(theirs) + 16).value  # behind the head of a Python object
    table = ctypes.c_void_p.from_address(interface or 0).value
    method = ctypes.c_void_p.from_address((table or 0) + 8).value  # the second one: getBatch
    call = ctypes.CFUNCTYPE(ctypes.c_bool, *[ctypes.c_void_p] * 3, ctypes.c_int)(method)
    pointers, names = (ctypes.c_void_p * 2)(), (ctypes.c_char_p * 2)(b"x", b"z")
    more = call(interface, pointers, names, 2)
    assert bool(ours) == more
    assert ours == [pointer for pointer in pointers if pointer]
    first = [text.split("\n")[0] for text in (printed, capfd.readouterr().err)]
    assert first[0] == first[1]
    assert bool(first[0]) == (kind in ("floats", "text", "error", "Ctrl-C"))


def test_the_double_has_no_name_that_the_stubs_of_tensorrt_10_lack() -> None:
    if not STUBS.is_file():
        pytest.skip("no type stubs of TensorRT here: scripts/stubs")
    classes = {
        node.name: node for node in ast.walk(ast.parse(STUBS.read_text())) if isinstance(node, ast.ClassDef)
    }

    def names(node: ast.ClassDef) -> set[str]:
        found: set[str] = set()
        for part in node.body:
            targets = part.targets if isinstance(part, ast.Assign) else [getattr(part, "target", part)]
            found |= {getattr(target, "id", getattr(target, "name", "")) for target in targets}
        bases = (classes[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in classes)
        return found.union(*map(names, bases))

    for name, own in names_of(make("10.13.0")):
        assert own - {"Severity"} <= names(classes[name]), name  # nested, where the stubs have it outside


def test_the_double_of_tensorrt_11_has_no_name_that_tensorrt_rtx_lacks() -> None:
    """TensorRT-RTX has the API of TensorRT 11 already."""
    import tensorrt_rtx

    for name, own in names_of(make("11.0.0")):
        assert own <= set(dir(getattr(tensorrt_rtx, name))), name


SINCE = {
    "ILayer.metadata": (8, 6),
    "IBuilderConfig.builder_optimization_level": (8, 6),
    "IBuilderConfig.hardware_compatibility_level": (8, 6),
    "BuilderFlag.VERSION_COMPATIBLE": (8, 6),
    "LayerType.NORMALIZATION": (8, 6),
    "LayerType.CAST": (8, 6),
    "OnnxParserFlag": (8, 6),
    "IProgressMonitor": (9,),
    "IBuilderConfig.progress_monitor": (9,),
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (9,),
    "DataType.BF16": (9,),
    "DataType.INT64": (9,),
    "INetworkDefinition.mark_debug": (10,),
    "INetworkDefinition.mark_unfused_tensors_as_debug_tensors": (10, 12),
}
UNTIL = {
    "NetworkDefinitionCreationFlag.EXPLICIT_PRECISION": (8, 6),
    "BuilderFlag.STRICT_TYPES": (9,),
    "LayerType.FULLY_CONNECTED": (10,),
    "IInt8EntropyCalibrator2": (11,),
    "CalibrationAlgoType": (11,),
    "IBuilderConfig.int8_calibrator": (11,),
    "IBuilderConfig.set_calibration_profile": (11,),
    "ILayer.precision": (11,),
    "ILayer.set_output_type": (11,),
    "ITensor.dynamic_range": (11,),
    "BuilderFlag.INT8": (11,),
    "BuilderFlag.FP16": (11,),
    "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": (11,),
    "Builder.platform_has_fast_int8": (11,),
    "TacticSource.CUBLAS": (11,),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (11,),
}


@pytest.mark.parametrize("version", [*VERSIONS, "11.0.0"])
def test_what_a_version_has(version: str) -> None:
    def has(path: str) -> bool:
        found: Any = make(version)
        for part in path.split("."):
            found = getattr(found, part, None)
        return found is not None

    number = tuple(map(int, version.split(".")))
    assert {path: has(path) for path in SINCE} == {path: number >= first for path, first in SINCE.items()}
    assert {path: has(path) for path in UNTIL} == {path: number < end for path, end in UNTIL.items()}
