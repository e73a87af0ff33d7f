"""What pydantic says of a recipe, in the words of TOML, with the nearest key."""

from __future__ import annotations

import re
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trtbuild.names import nearest
from trtbuild.recipe.section import Section

_IN_TOML = {
    "model_type": "should be a table",
    "dict_type": "should be a table",
    "tuple_type": "should be a list",
}


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            key = str(item["loc"][-1])
            lines.append(f"unknown key {place!r}{nearest(key, _keys(model, item['loc'][:-1]))}")
        else:
            message = _wrong(item)
            lines.append(f"{place}: {message}" if place else message)
    return lines


def _wrong(item: ErrorDetails) -> str:
    """What pydantic says of a value, in the words of TOML, and the value."""
    kind = item["type"]
    message = _IN_TOML.get(kind) or re.sub("^(Value error,|Input|Tuple) ", "", item["msg"])
    own = kind in ("value_error", "missing")  # said by us, or there is no value
    return message if own else f"{message}, got {item['input']!r:.60}"


def _keys(annotation: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at `location` inside a section, for near misses."""
    for part in location:
        if _is_section(annotation):
            fields = {
                field.alias or name: field.annotation for name, field in annotation.model_fields.items()
            }
            annotation = fields.get(str(part))
        else:  # the key of a dict[str, Section], the index of a tuple[Section, ...]
            annotation = next(filter(_is_section, get_args(annotation)), None)
    if not _is_section(annotation):
        return []
    return [field.alias or name for name, field in annotation.model_fields.items()]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
