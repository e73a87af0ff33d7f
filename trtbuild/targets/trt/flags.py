"""Which precisions the builder may use in implicit mode, and whether it must obey the pins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtbuild.errors import InputError
from trtbuild.precision.map import PrecisionMap
from trtbuild.recipe import TensorRTSection
from trtbuild.targets.trt.binding import Binding

if TYPE_CHECKING:
    import tensorrt as trt


@dataclass(frozen=True)
class Flags:
    """The builder flags of the lower precisions."""

    names: tuple[str, ...]

    @property
    def int8(self) -> bool:
        return "INT8" in self.names

    @property
    def halves(self) -> bool:
        return bool({"FP16", "BF16"} & set(self.names))


def flags_of(precisions: PrecisionMap) -> Flags:
    """The recipe's default, what nodes without an int8 form fall back to, and what single rules ask for."""
    used = {precisions.default, *precisions.used}
    if precisions.default == "int8":
        used.add(precisions.fallback)
    return Flags(tuple(name for name in ("INT8", "FP16", "BF16") if name.lower() in used))


def set_flags(
    binding: Binding, config: trt.IBuilderConfig, flags: Flags, section: TensorRTSection, pinned: bool
) -> None:
    """Raises InputError for a precision or a constraint that this TensorRT does not have."""
    for name in flags.names:
        config.set_flag(_flag(binding, name))
    if pinned:
        wish = "OBEY" if section.constraints == "obey" else "PREFER"
        config.set_flag(_flag(binding, f"{wish}_PRECISION_CONSTRAINTS"))


def _flag(binding: Binding, name: str) -> trt.BuilderFlag:
    flag: trt.BuilderFlag | None = getattr(binding.BuilderFlag, name, None)
    if flag is None:
        raise InputError(
            f"TensorRT {binding.__version__} has no builder flag {name}; choose another precision, or "
            "--mode explicit where types come from the model"
        )
    return flag
