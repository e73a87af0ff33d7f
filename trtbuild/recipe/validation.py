"""`[validation]`: on which samples a build is checked, and what it must pass."""

from __future__ import annotations

import re

from pydantic import Field, field_validator, model_validator

from trtbuild.recipe.section import Section

_OF_A_METRIC = ("labels", "max_drop", "baseline_drop", "max_ece_rise")


class Thresholds(Section):
    """What a tensor must reach against the golden: cosine and SQNR (dB) are the least that passes, `max_abs`
    (in the tensor's unit) is the most."""

    cosine: float | None = Field(default=None, le=1)
    sqnr_db: float | None = None
    max_abs: float | None = Field(default=None, ge=0)


class OutputThresholds(Thresholds):
    """`argmax_agreement`: least share of the rows of class scores whose largest is that of the golden."""

    argmax_agreement: float | None = Field(default=None, ge=0, le=1)


class OutputSection(OutputThresholds):
    """One output; `class_axis`: where its classes are."""

    class_axis: int = -1


class ValidationSection(Section):
    """`baseline_drop`: most that the metric's mean may lose against a build in production; `max_drop` where
    it is not given. `max_ece_rise`: most that the expected calibration error may rise above the golden's.

    `layer_samples`: of the layer diff; `layer_memory_gb`: what the layers shown at once may take;
    `attribution_samples`: by how many of those a layer's own error is told from what it inherits, and from
    rounding; `golden_disk_gb`: what the golden's activations may take on disk.
    `outputs`: thresholds of every output; `output`: of one, by its name; `layers`: of every layer.
    """

    samples: str = "validation"
    labels: str | None = None
    metric: str | None = None
    max_drop: float | None = Field(default=None, ge=0)
    baseline_drop: float | None = Field(default=None, ge=0)
    max_ece_rise: float | None = Field(default=None, ge=0)
    layer_samples: int = Field(default=8, gt=0)
    layer_memory_gb: float = Field(default=2.0, gt=0, le=1e6)
    attribution_samples: int = Field(default=8, ge=0)
    golden_disk_gb: float = Field(default=2.0, ge=0, le=1e6)
    outputs: OutputThresholds = OutputThresholds()
    output: dict[str, OutputSection] = Field(default_factory=dict)
    layers: Thresholds = Thresholds()

    @field_validator("metric")
    @classmethod
    def _file_and_function(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[^:]+\.py:[A-Za-z_]\w*", value):
            raise ValueError(f"metric must read 'file.py:function', got {value!r}")
        return value

    @model_validator(mode="after")
    def _metric_complete(self) -> ValidationSection:
        if self.metric is not None and (self.labels is None or self.max_drop is None):
            raise ValueError("a metric needs labels and max_drop beside it")
        if self.metric is None and any(getattr(self, key) is not None for key in _OF_A_METRIC):
            raise ValueError(
                f"{', '.join(_OF_A_METRIC[:-1])} and {_OF_A_METRIC[-1]} mean nothing without a metric"
            )
        return self

    def thresholds_of(self, output: str) -> OutputThresholds:
        """Those of one output; what its own section gives goes before what every output has."""
        sections = (self.outputs, self.output.get(output, self.outputs))
        given = {key: value for section in sections for key, value in section if value is not None}
        given.pop("class_axis", None)
        return OutputThresholds(**given)

    def class_axis_of(self, output: str) -> int:
        return self.output.get(output, OutputSection()).class_axis

    @property
    def baseline_tolerance(self) -> float:
        """What the metric's mean may lose against a build in production."""
        given = (self.baseline_drop, self.max_drop)
        return next((value for value in given if value is not None), 0.0)
