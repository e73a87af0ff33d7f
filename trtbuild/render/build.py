"""What `pins`, `build` and `inspect` print."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from trtbuild.render.text import Document, add_line, add_row, counted, new_console, new_table, some


def pins(document: Document) -> None:
    mode = ", implicit mode" if document["implicit"] else ""
    title = f"precision per node: {document['engine']}, target {document['target']}{mode}"
    nodes = new_table(title, "node", "type", "precision", "reason")
    quiet = Counter[tuple[str, str]]()
    for name, node in document["nodes"].items():
        if node["lowered_by_default"] or node["reason"].startswith("rule"):
            add_row(nodes, name, node["op_type"], node["precision"], node["reason"])
        else:
            quiet[(node["precision"], node["reason"])] += 1
    rules = new_table("rules", "rule", "nodes matched", "nodes changed", numbers=2)
    for rule in document["rules"]:
        nothing = "0 (no effect)" if rule["matched"] else "0 (no TensorRT layers here)"
        add_row(rules, rule["rule"], rule["matched"], rule["effective"] or nothing)
    console = new_console()
    console.print(nodes)
    for (precision, reason), count in quiet.most_common():
        add_line(console, f"and {count} nodes in {precision}: {reason}")
    if document["implicit"]:
        add_line(
            console, "implicit mode: TensorRT may lower these too, where they have ranges; only pins hold"
        )
    if document["rules"]:
        console.print(rules)
    budget = f", budget {document['budget']:.0%}" if document["budget"] is not None else ""
    others = len(document["pinned"]) - document["budgeted"]
    more = f", and {others} that the default does not lower" if others else ""
    share = f"({document['share']:.1%}{budget})"
    add_line(console, f"pinned {document['budgeted']} of {document['lowerable']} nodes {share}{more}")


def build(document: Document) -> None:
    audit, precision = document["audit"], document["precision"]
    console = new_console()
    for line in (
        f"{document['path']}",
        f"key {document['key']}, target {document['target']['target']}, "
        f"{document['artifact']['bytes'] / 1e6:.1f} MB",
        f"pins: {audit['held']} held of {len(precision['pinned'])} asked, "
        f"{precision['share']:.1%} of {precision['lowerable']} nodes",
        *_audited(audit),
        *([f"audited on {document['target']['inspected']}"] if "inspected" in document["target"] else []),
        *(f"not calibrated: {node} ({why})" for node, why in document["model"]["not_calibrated"].items()),
    ):
        add_line(console, line)


def inspect(document: Document) -> None:
    audit, pinned = document["audit"], set(document["pinned"])
    lost = {pin["node"] for pin in audit["lost"]}
    table = new_table(f"layers of {document['key']}", "layer", "type", "precision", "pin")
    for layer in document["layers"]:
        nodes = set(layer["nodes"])
        held = ("lost" if nodes & lost else "held") if nodes & pinned else ""
        add_row(table, layer["name"], layer["type"], layer["precision"], held)
    console = new_console()
    console.print(table)
    pins = audit.get("pins", [])  # builds from before each pin was listed
    if pins:
        _print_pins(console, pins, lost)
    for line in _audited(audit):
        add_line(console, line)
    for key, value in document["target"].items():
        add_line(console, f"{key}: {value}")


def _print_pins(console: Console, pins: list[Document], lost: set[str]) -> None:
    """Pin -> the layers that execute it."""
    table = new_table("pins", "node", "asked", "layer", "precision", "pin")
    for pin in pins:
        became = "lost" if pin["node"] in lost else "held" if pin["layers"] else "removed"
        for layer in pin["layers"] or [{"name": "-", "precision": "-"}]:
            seen = layer["precision"] + (", reads int8" if layer.get("reads_int8") else "")
            add_row(table, pin["node"], pin["wanted"], layer["name"], seen, became)
    console.print(table)


def _audited(audit: Document) -> list[str]:
    """What the audit found. Builds from before TensorRT lack some of it."""
    reformats = []
    if audit.get("reformats"):
        share = f"{audit['reformats']} of {audit['executed']} layers that run ({audit['reformat_share']:.1%})"
        reformats = [f"reformats: {share}"]
    return [
        f"layers by precision: {counted(audit['histogram'])}",
        *reformats,
        *(f"lost pin: {pin['node']} (asked {pin['wanted']}, found {pin['found']})" for pin in audit["lost"]),
        *some("without a layer of their own, since they only move data", audit.get("removed", [])),
        *some("lower than meant, without a pin", audit.get("below", [])),
        *some("not lowered as meant", audit["unlowered"]),
    ]
