"""What every HTML page here is: one file that needs nothing else, and says so in its security policy."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup


def page(template: str, styles: tuple[str, ...], script: str, values: Mapping[str, Any]) -> str:
    """The page of a template in assets/, with these files' styles and script inside.

    Everything in `values` is escaped; the content security policy forbids every request, and every script and
    style but the page's own, which it names by their SHA-256.
    """
    style, code = "".join(map(_asset, styles)), _asset(script)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": number, "decibel": decibel, "percent": percent}
    policy = [
        "default-src 'none'",
        f"style-src {_hash(style)}",
        f"script-src {_hash(code)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    own = {"style": Markup(style), "script": Markup(code), "policy": "; ".join(policy)}
    return environment.from_string(_asset(template)).render(own, **values)


def number(value: float) -> str:
    return f"{value:.4g}"


def decibel(value: float) -> str:
    if math.isinf(value):
        return "equal" if value > 0 else "no signal"
    return f"{value:.1f}"


def percent(value: float) -> str:
    return f"{value:.1%}"


def _asset(name: str) -> str:
    return (resources.files("trtbuild.report") / "assets" / name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return f"'sha256-{digest}'"
