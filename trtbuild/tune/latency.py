"""What a pin costs: milliseconds per node, from the document of `trtbuild bench ENGINE --layers -o FILE`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtbuild.errors import InputError
from trtbuild.model.model import Model
from trtbuild.progress import say

SCHEMA_VERSION = 1
"""Of the document."""
_MEASURE = "measure on the GPU with `trtbuild bench ENGINE --layers -o FILE`"


@dataclass(frozen=True)
class Latencies:
    """path: where they were read. sha256: of the model that was measured. fp32, int8: node -> its
    milliseconds in the engine without pins of that precision, for all samples of one run."""

    path: Path
    sha256: str
    fp32: Mapping[str, float]
    int8: Mapping[str, float]

    def check(self, model: Model) -> None:
        """Raise InputError unless the nodes that were measured are nodes of this model. That its weights may
        be others, which changes no latency, is said."""
        names = {node.name for node in model.graph}
        stranger = next((node for node in self.fp32 if node not in names), None)
        if stranger is not None:
            raise InputError(
                f"{self.path} is of another model: {model.path} has no node {stranger!r}; {_MEASURE}"
            )
        if self.sha256 != model.sha256:
            say(f"note: {self.path} was measured with another file than {model.path}, of the same nodes")

    def cost_of(self, nodes: Sequence[str]) -> float:
        """Milliseconds that an int8 engine takes longer when these nodes are float32, each counted once and
        none below 0.

        Costs are added up: what neighbours gain or lose by a pin (other fusions, conversions between them) is
        not in it. A node that runs inside of another's layer has 0: see `layer_times`. Raises InputError for
        one that was not measured, since what it costs is not known.
        """
        return math.fsum(self._cost(node) for node in dict.fromkeys(nodes))

    def _cost(self, node: str) -> float:
        if node not in self.fp32:
            raise InputError(f"{self.path} has no time of node {node!r}; {_MEASURE}")
        return max(0.0, self.fp32[node] - self.int8[node])


def load(path: Path) -> Latencies:
    """Read a document of `bench`.

    Raises InputError for a file that is none, that was made without `--layers`, or that is damaged; OSError
    for one that cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no document of bench (no JSON: {error}); {_MEASURE}") from error
    if not isinstance(document, dict) or not {"schema_version", "model", "layers"} <= document.keys():
        raise InputError(f"{path} is no document of this version's bench; {_MEASURE}")
    if document["schema_version"] != SCHEMA_VERSION:
        raise InputError(
            f"{path} has schema_version {document['schema_version']}, expected {SCHEMA_VERSION}; {_MEASURE}"
        )
    if document["layers"] is None:
        raise InputError(f"{path} has no times of layers: it was made without --layers; {_MEASURE}")
    try:
        nodes = document["layers"]["nodes"]
        if not nodes:
            raise ValueError("no nodes")
        fp32, int8 = ({node: _time(nodes[node][name]) for node in nodes} for name in ("fp32", "int8"))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}: {error}); {_MEASURE}") from error
    return Latencies(path, str(document["model"]), fp32, int8)


def _time(found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found) or found < 0:
        raise ValueError(f"{found!r} is no time")
    return float(found)
