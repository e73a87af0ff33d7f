"""The document of a golden check: what `validate --json` prints and every other report is made of.

Its form is in document.schema.json. Same inputs, same bytes, but for `created` (see `_now`).
"""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibrators.shards import ShardSet
from trtbuild.errors import InputError
from trtbuild.golden.differ import TensorDiff
from trtbuild.golden.gate import DIVERGED_DB
from trtbuild.golden.verdict import Verdict
from trtbuild.model.model import Model
from trtbuild.precision.map import PrecisionMap
from trtbuild.report import histogram
from trtbuild.report.advice import Adviser
from trtbuild.report.environment import environment
from trtbuild.report.rank import worst_first
from trtbuild.ship.store import Build

SCHEMA_VERSION = 1
WORST = 10
FIXED_TIME = "SOURCE_DATE_EPOCH"
"""Seconds since 1970 that stand for now: https://reproducible-builds.org/specs/source-date-epoch/"""
Document = dict[str, Any]


@dataclass(frozen=True)
class Drawn:
    """How many of the samples were drawn, and by which seed."""

    count: int
    seed: int


@dataclass(frozen=True)
class Checked:
    """A golden check that was made: the verdict, of what, on which samples: all of `shards`, or `drawn` from
    them. `caveats`: what the reader must know where it was not the thing itself that ran."""

    verdict: Verdict
    build: Build
    model: Model
    shards: ShardSet
    caveats: tuple[str, ...]
    drawn: Drawn | None = None


def compose(checked: Checked) -> Document:
    """The document, its keys sorted. Raises InputError for a SOURCE_DATE_EPOCH that is no time, and for
    samples that were changed meanwhile."""
    verdict, build, manifest = checked.verdict, checked.build, checked.build.manifest
    precisions = PrecisionMap.from_dict(manifest["precision"])
    built = _built(manifest["layers"])
    document = {
        "schema_version": SCHEMA_VERSION,
        "created": _now(),
        "engine": manifest["engine"],
        "build": build.key,
        **verdict.to_dict(),
        "layers": _rows(verdict.layers, precisions, built),
        "outputs": _rows(verdict.outputs, precisions, built),
        "diverged_below_db": DIVERGED_DB,
        "worst": _worst(
            verdict.layers or verdict.outputs,
            Adviser(checked.model, precisions, [diff.to_dict() for diff in verdict.layers]),
        ),
        "precision": _summary(precisions, manifest["audit"]),
        "pins": _pins(precisions, manifest["audit"]),
        "caveats": list(checked.caveats),
        "samples": samples_of(checked),
        "model": {"file": checked.model.path.name, "sha256": checked.model.sha256},
        "artifact": manifest["artifact"],
        "built": {
            "created": manifest["created"],
            "trtbuild": manifest.get("trtbuild"),
            "target": manifest["target"],
        },
        "environment": environment(),
    }
    sorted_document: Document = _sorted(document)
    return sorted_document


def json_text(document: Document) -> str:
    """As `--json` prints it."""
    return json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=1, allow_nan=False)


def check_time() -> None:
    """Raise InputError for a SOURCE_DATE_EPOCH that is no time."""
    _now()


def _now() -> str:
    """UTC, ISO 8601, whole seconds: the one thing that differs between two runs, unless it is fixed."""
    given = os.environ.get(FIXED_TIME)
    try:
        now = (
            datetime.datetime.now(datetime.timezone.utc)
            if given is None
            else datetime.datetime.fromtimestamp(int(given), datetime.timezone.utc)
        )
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"{FIXED_TIME}={given} is no time; give seconds since 1970, or unset it") from error
    return now.isoformat(timespec="seconds")


def samples_of(checked: Checked) -> Document:
    """sha256: of all files, drawn from or not."""
    shards, drawn = checked.shards, checked.drawn
    return {
        "count": drawn.count if drawn else shards.samples,
        "sha256": shards.fingerprint(),
        "drawn": {"of": shards.samples, "seed": drawn.seed} if drawn else None,
    }


def _built(layers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Node -> the precisions that its layers have in what was built, "+" between them."""
    found: dict[str, set[str]] = {}
    for layer in layers:
        for node in layer["nodes"]:
            found.setdefault(node, set()).add(layer["precision"])
    return {node: "+".join(sorted(precisions)) for node, precisions in found.items()}


def _rows(diffs: Sequence[TensorDiff], precisions: PrecisionMap, built: Mapping[str, str]) -> list[Document]:
    """What the verdict says of each tensor, and why its node has the precision that it has. Histograms are
    kept of the worst alone: all of them would be megabytes."""
    rows = []
    for diff in diffs:
        node = precisions.nodes.get(diff.node)
        rows.append(
            {
                **diff.to_dict(),
                "reason": node.reason if node else None,
                "pinned": bool(node and node.pinned),
                "built_precision": built.get(diff.node),
            }
        )
    return rows


def _worst(diffs: Sequence[TensorDiff], adviser: Adviser) -> list[Document]:
    """The ten with the largest errors, the worst first; equal tensors are none of them."""
    rows = worst_first([diff.to_dict() for diff in diffs])[:WORST]
    by_tensor = {diff.tensor: diff for diff in diffs}
    return [
        {
            "tensor": row["tensor"],
            "node": row["node"],
            "precision": row["precision"],
            "difference": row["difference"],
            **asdict(adviser.advise(row)),
            "histogram": histogram.of(by_tensor[row["tensor"]]),
        }
        for row in rows
    ]


def _summary(precisions: PrecisionMap, audit: Mapping[str, Any]) -> Document:
    return {
        "default": precisions.default,
        "fallback": precisions.fallback,
        "lowerable": precisions.lowerable,
        "pinned": len(precisions.pinned),
        "budgeted": precisions.budgeted,
        "share": precisions.share,
        "nodes": dict(Counter(node.precision for node in precisions.nodes.values())),
        "built_layers": audit["histogram"],
        "rules": [asdict(rule) for rule in precisions.rules],
    }


def _pins(precisions: PrecisionMap, audit: Mapping[str, Any]) -> list[Document]:
    """Every pin, its reason, and what the audit of the build found."""
    lost = {pin["node"] for pin in audit["lost"]}
    removed = set(audit.get("removed", ()))
    return [
        {
            "node": name,
            "op_type": precisions.nodes[name].op_type,
            "precision": precisions[name],
            "reason": precisions.nodes[name].reason,
            "state": "lost" if name in lost else "removed" if name in removed else "held",
        }
        for name in precisions.pinned
    ]


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [_sorted(item) for item in value] if isinstance(value, list | tuple) else value
