"""What the search tries: a setting, and pins."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from trtbuild.recipe.tuned import Setting

OWN = "the recipe without more pins"
"""What the first trial is called."""


@dataclass(frozen=True)
class Trial:
    """pins: the nodes held at float32 beside those that the recipe pins, in graph order."""

    setting: Setting
    pins: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**self.setting.model_dump(), "pins": list(self.pins)}

    def with_setting(self, **changed: Any) -> Trial:
        """The same but for this of its setting."""
        return replace(self, setting=self.setting.model_copy(update=changed))

    def with_pins(self, pins: tuple[str, ...]) -> Trial:
        return replace(self, pins=pins)

    def without(self, node: str) -> Trial:
        return self.with_pins(tuple(name for name in self.pins if name != node))
