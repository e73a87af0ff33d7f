"""The small models that the onnx package ships for its backends: odd operators, old opsets, sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test
import onnx.numpy_helper
import pytest

from calibrators.table import Range, RangeTable
from trtbuild.errors import BuildError
from trtbuild.model import files
from trtbuild.model.model import Model
from trtbuild.precision import rules
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import PrecisionSection
from trtbuild.rewrite.explicit import explicit, ranges_needed
from trtbuild.targets.session import Tensors, open_session

DATA = Path(onnx.backend.test.__file__).parent / "data"
MODELS = sorted(
    path
    for kind in ("simple", "pytorch-converted", "pytorch-operator")
    for path in DATA.glob(f"{kind}/*/model.onnx")
    if "strnorm" not in path.parent.name  # StringNormalizer works or not by the locales of the machine
)


def feeds_of(path: Path, session: object) -> Tensors:
    """The inputs that the package ships beside the model."""
    feeds = {}
    for index, value in enumerate(session.get_inputs()):  # type: ignore[attr-defined]
        file = path.parent / "test_data_set_0" / f"input_{index}.pb"
        if not file.is_file() or not value.type.startswith("tensor("):
            pytest.skip(f"no data for input {value.name!r}, {value.type}")
        feeds[value.name] = onnx.numpy_helper.to_array(onnx.TensorProto.FromString(file.read_bytes()))
    return feeds


def decided(model: Model, **section: str) -> PrecisionMap:
    return rules.resolve(model, PrecisionSection.model_validate(section), [])


def table_of(model: Model) -> RangeTable:
    return RangeTable({name: Range(3.0, "minmax") for name in ranges_needed(model)}, None, 1)


def test_there_are_models() -> None:
    assert len(MODELS) > 100


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
def test_in_float_it_is_the_original_bit_for_bit(path: Path) -> None:
    try:
        original = open_session(files.read(path))
    except BuildError as error:
        pytest.skip(f"not for ONNX Runtime: {str(error)[:60]}")
    feeds = feeds_of(path, original)
    model = Model.open(path)
    rendered = open_session(explicit(model, decided(model, default="fp32"), None, "typed"))
    for expected, seen in zip(original.run(None, feeds), rendered.run(None, feeds), strict=True):
        np.testing.assert_array_equal(np.asarray(seen), np.asarray(expected), strict=True)


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parent.name)
@pytest.mark.parametrize("section", [{"default": "int8", "fallback": "fp16"}, {"default": "bf16"}], ids=str)
def test_lowered_it_is_still_a_valid_model(path: Path, section: dict[str, str]) -> None:
    model = Model.open(path)
    precisions = decided(model, **section)
    typed = explicit(model, precisions, table_of(model), "typed")
    if not model.unrunnable:
        onnx.checker.check_model(files.serialize(typed))
        open_session(explicit(model, precisions, table_of(model), "simulated"))
