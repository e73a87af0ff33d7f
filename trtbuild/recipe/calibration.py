"""`[calibration]`: which shards, and which method for which tensor."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import Field, model_validator

from calibrators.errors import CalibratorError
from calibrators.method import Method
from trtbuild.names import matcher
from trtbuild.recipe.section import Section, as_value_error


class CalibrationSection(Section):
    """`percentile` is what the method "percentile" means where it names none itself ("percentile:99.9").

    `tensors`: pattern -> method; `types`: type of the node that makes the tensor -> method. A pattern goes
    before a type, a type before `method`. "auto": the method that harms the model's outputs least.

    `equalize`: before calibrating, how much of the spread between the channels of a tensor moves into the
    weights that read it, 0 to 1 (the alpha of SmoothQuant); None: nothing. `bias_correction`: take what int8
    shifts the mean of a channel by off the biases, where that brings the outputs nearer.
    """

    shards: str = "shards"
    method: str = "minmax"
    percentile: float | None = Field(default=None, gt=0, le=100)
    tensors: dict[str, str] = Field(default_factory=dict)
    types: dict[str, str] = Field(default_factory=dict)
    equalize: float | None = Field(default=None, ge=0, le=1)
    bias_correction: bool = False

    @model_validator(mode="after")
    def _known_methods(self) -> CalibrationSection:
        with as_value_error():
            for text in (self.method, *self.tensors.values(), *self.types.values()):
                self._parsed(text)
            for pattern in self.tensors:
                matcher(pattern)
        return self

    def method_of(self, tensor: str, op_type: str | None = None) -> Method | Literal["auto"]:
        """The method for one tensor; of the `[calibration.tensors]` patterns the last match wins.

        op_type: of the node that makes the tensor; None for an input of the model.
        """
        chosen = self.method if op_type is None else self.types.get(op_type, self.method)
        for pattern, method in self.tensors.items():
            if matcher(pattern)(tensor):
                chosen = method
        return self._parsed(chosen)

    def describe(self) -> str:
        """Every method with its pattern, in order, those by type, and what is equalized: what a range table
        is stored and looked up by."""
        return json.dumps(
            [["", str(self._parsed(self.method))]]
            + [[pattern, str(self._parsed(method))] for pattern, method in self.tensors.items()]
            + [["type", op_type, str(self._parsed(self.types[op_type]))] for op_type in sorted(self.types)]
            + ([] if self.equalize is None else [["equalize", self.equalize]])
        )

    def _parsed(self, text: str) -> Method | Literal["auto"]:
        if text == "auto":
            return "auto"
        if text == "percentile" and self.percentile is not None:
            return Method("percentile", self.percentile)
        try:
            return Method.parse(text)
        except CalibratorError as error:
            raise CalibratorError(f"{error}; or auto") from error
