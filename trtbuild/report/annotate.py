"""The model with what the check found written on its nodes, for Netron."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from trtbuild.model import files
from trtbuild.model.graph import node_name
from trtbuild.paths import data_of
from trtbuild.precision.map import PrecisionMap
from trtbuild.report.document import Checked, Document
from trtbuild.report.rank import problem, sqnr
from trtbuild.ship.store import UNFINISHED

PREFIX = "trtbuild."
MARK = f"{PREFIX}annotated"
"""In the model's metadata: the build that the notes are on."""
FIGURES = ("cosine", "max_abs", "max_rel", "rmse", "kl")


def annotated(checked: Checked, document: Document) -> ir.Model:
    """A copy of the normalised model; weights are shared.

    Each node's metadata has its precision and the reason; where one of its outputs was compared, also what
    was built and the figures of the worst one. Its doc_string says the same in one line, after what it said
    before.
    """
    copy = checked.model.normalised.clone()
    copy.metadata_props.update(
        {
            MARK: document["build"],
            f"{PREFIX}passed": str(document["passed"]).lower(),
            f"{PREFIX}first_divergence": document["first_divergence"] or "none",
        }
    )
    precisions = PrecisionMap.from_dict(checked.build.manifest["precision"])
    rows = _worst_of_each(document)
    pins = {pin["node"]: pin["state"] for pin in document["pins"]}
    for node in copy.graph:
        name = node_name(node)
        notes = {"precision": precisions[name], "reason": precisions.nodes[name].reason}
        if name in pins:
            notes["pin"] = pins[name]
        if name in rows:
            notes |= _found(rows[name])
        node.metadata_props.update({f"{PREFIX}{key}": text for key, text in notes.items()})
        line = "; ".join(f"{key} {text}" for key, text in notes.items())
        node.doc_string = f"{node.doc_string}\n{line}" if node.doc_string else line
    return copy


def save(model: ir.Model, path: Path) -> None:
    """Write the file, and `<path>.data` where the weights are too big for one: complete, then renamed."""
    try:
        with tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder:
            written = Path(folder) / path.name
            files.save(model, written)
            for file in (data_of(written), written):
                if file.is_file():
                    file.replace(path.with_name(file.name))
    except OSError as error:
        error.filename = str(path)  # not a temporary one
        raise


def _worst_of_each(document: Document) -> dict[str, Document]:
    """Node -> the row of its output with the largest error."""
    found: dict[str, Document] = {}
    for row in [*document["layers"], *document["outputs"]]:
        if row["node"] not in found or _rank(row) < _rank(found[row["node"]]):
            found[row["node"]] = row
    return found


def _rank(row: Document) -> tuple[bool, float]:
    return problem(row) is None, sqnr(row["difference"]) if row["difference"] else 0.0


def _found(row: Document) -> dict[str, str]:
    found, failed = row["difference"], problem(row)
    notes = {"built_precision": row["built_precision"] or "not shown"}
    if failed is not None:
        notes["failed"] = failed
    if found is not None:
        notes["sqnr_db"] = f"{sqnr(found):.2f}"
        notes |= {key: f"{found[key]:.6g}" for key in FIGURES if found.get(key) is not None}
    return notes
