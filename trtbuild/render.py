"""The documents of the commands as text: rich tables on stdout."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

WORST_SHOWN = 10
NODES_SHOWN = 5
LOG_WIDTH = 140  # columns, where stdout is no terminal
Document = dict[str, Any]


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def _table(title: str, *columns: str, numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are aligned to the right."""
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def _line(console: Console, text: str) -> None:
    """A line of text that is never wrapped: a path stays whole."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def _row(table: Table, *cells: object) -> None:
    table.add_row(*(escape(str(cell)) for cell in cells))


def pins(document: Document) -> None:
    mode = ", implicit mode" if document["implicit"] else ""
    title = f"precision per node: {document['engine']}, target {document['target']}{mode}"
    nodes = _table(title, "node", "type", "precision", "reason")
    quiet = Counter[tuple[str, str]]()
    for name, node in document["nodes"].items():
        if node["lowered_by_default"] or node["reason"].startswith("rule"):
            _row(nodes, name, node["op_type"], node["precision"], node["reason"])
        else:
            quiet[(node["precision"], node["reason"])] += 1
    rules = _table("rules", "rule", "nodes matched", "nodes changed", numbers=2)
    for rule in document["rules"]:
        nothing = "0 (no effect)" if rule["matched"] else "0 (no TensorRT layers here)"
        _row(rules, rule["rule"], rule["matched"], rule["effective"] or nothing)
    console = _console()
    console.print(nodes)
    for (precision, reason), count in quiet.most_common():
        _line(console, f"and {count} nodes in {precision}: {reason}")
    if document["implicit"]:
        _line(console, "implicit mode: TensorRT may lower these too, where they have ranges; only pins hold")
    if document["rules"]:
        console.print(rules)
    budget = f", budget {document['budget']:.0%}" if document["budget"] is not None else ""
    others = len(document["pinned"]) - document["budgeted"]
    more = f", and {others} that the default does not lower" if others else ""
    share = f"({document['share']:.1%}{budget})"
    _line(console, f"pinned {document['budgeted']} of {document['lowerable']} nodes {share}{more}")


def comparison(document: Document) -> None:
    found = document["comparison"]
    differing = len(found["tensors"]) - found["equal"]
    table = _table(
        f"{differing} of {len(found['tensors'])} ranges differ", "tensor", "amax", "other", "ratio", numbers=3
    )
    for name, pair in list(found["tensors"].items())[:differing]:  # those that differ come first
        ratio = "-" if pair["ratio"] is None else f"{pair['ratio']:.4g}"
        _row(table, name, f"{pair['amax']:.6g}", f"{pair['other']:.6g}", ratio)
    console = _console()
    if differing:
        console.print(table)
    else:
        _line(console, f"all {found['equal']} ranges that both have are equal")
    for line in (*_some("only here", found["only_here"]), *_some("only there", found["only_there"])):
        _line(console, line)
    _line(console, f"{document['path']}\n{document['cache']}")


def ranges(document: Document) -> None:
    table = _table(f"ranges from {document['samples']} samples", "tensor", "method", "amax", numbers=1)
    for name, entry in document["ranges"].items():
        _row(table, name, entry["method"], f"{entry['amax']:.6g}")
    console = _console()
    console.print(table)
    constant = [name for name, entry in document["ranges"].items() if entry["amax"] == 0]
    if constant:
        _line(console, f"constant zero in every sample: {', '.join(constant)}")
    _line(console, f"{document['path']}\n{document['cache']}")


def build(document: Document) -> None:
    audit, precision = document["audit"], document["precision"]
    console = _console()
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
        _line(console, line)


def inspect(document: Document) -> None:
    audit, pinned = document["audit"], set(document["pinned"])
    lost = {pin["node"] for pin in audit["lost"]}
    table = _table(f"layers of {document['key']}", "layer", "type", "precision", "pin")
    for layer in document["layers"]:
        nodes = set(layer["nodes"])
        held = ("lost" if nodes & lost else "held") if nodes & pinned else ""
        _row(table, layer["name"], layer["type"], layer["precision"], held)
    console = _console()
    console.print(table)
    pins = audit.get("pins", [])  # builds from before each pin was listed
    if pins:
        _print_pins(console, pins, lost)
    for line in _audited(audit):
        _line(console, line)
    for key, value in document["target"].items():
        _line(console, f"{key}: {value}")


def _print_pins(console: Console, pins: list[Document], lost: set[str]) -> None:
    """Pin -> the layers that execute it."""
    table = _table("pins", "node", "asked", "layer", "precision", "pin")
    for pin in pins:
        became = "lost" if pin["node"] in lost else "held" if pin["layers"] else "removed"
        for layer in pin["layers"] or [{"name": "-", "precision": "-"}]:
            seen = layer["precision"] + (", reads int8" if layer.get("reads_int8") else "")
            _row(table, pin["node"], pin["wanted"], layer["name"], seen, became)
    console.print(table)


def verdict(document: Document) -> None:
    console = _console()
    if document["layers"]:
        console.print(_worst(document["layers"]))
    if document["first_divergence"]:
        _line(console, f"first layer below 20 dB: {document['first_divergence']}")
    for node, why in document["not_checked"].items():
        _line(console, f"not checked: {node} ({why})")
    checks = _table(f"gate of {document['build']}", "check", "seen", "wanted", "")
    for check in document["checks"]:
        _row(checks, check["name"], check["seen"], check["wanted"], "ok" if check["passed"] else "FAILED")
    console.print(checks)
    console.print("[green]passed[/]" if document["passed"] else "[red]failed[/]")


def _worst(layers: list[Document]) -> Table:
    compared = (layer for layer in layers if layer["difference"])
    worst = sorted(compared, key=lambda layer: _sqnr(layer["difference"]))[:WORST_SHOWN]
    table = _table(
        f"the {len(worst)} worst of {len(layers)} layers",
        *("tensor", "node", "precision", "SQNR, dB", "cosine", "RMSE", "max abs", "KL"),
        numbers=5,
    )
    for layer in worst:
        found = layer["difference"]
        figures = (
            f"{found[name]:.4g}" if found[name] is not None else "-"
            for name in ("cosine", "rmse", "max_abs", "kl")
        )
        _row(table, layer["tensor"], layer["node"], layer["precision"], f"{_sqnr(found):.1f}", *figures)
    return table


def bench(document: Document) -> None:
    facts = document["target"]
    table = _table(
        f"{document['engine']}, {document['samples']} samples at a time: {facts['gpu']}, "
        f"TensorRT {facts['tensorrt']}",
        *("engine", "layers", "median, ms", "p99, ms", "mean, ms", "samples/s", "x FP32", "MB"),
        numbers=6,
    )
    for name, timed in document["engines"].items():
        figures = timed["figures"]
        times = (f"{figures[key]:.4f}" for key in ("median_ms", "p99_ms", "mean_ms"))
        rate, size = f"{figures['samples_per_second']:.0f}", f"{timed['engine_bytes'] / 1e6:.1f}"
        speedup = "-" if timed["speedup"] is None else f"{timed['speedup']:.2f}"
        lost = f", {timed['lost_pins']} pins lost" if timed["lost_pins"] else ""
        _row(table, name, _histogram(timed["layers"]) + lost, *times, rate, speedup, size)
    console = _console()
    console.print(table)
    how = "CUDA graph replay" if document["method"] == "graph" else f"enqueued ({document['not_captured']})"
    _line(console, f"{document['timed']}; {how}; {document['iterations']} iterations, in turns")
    _line(console, f"fed {document['inputs']}")
    if facts.get("options", {}).get("tf32"):
        _line(console, "fp32 may compute in TF32 ([tensorrt] tf32)")
    for name, why in document["not_built"].items():
        _line(console, f"not built: {name} ({why})")


def doctor(document: Document) -> None:
    console = _console()
    packages = _table("packages", "package", "version")
    for name, version in document["packages"].items():
        _row(packages, name, version or "-")
    targets = _table("targets", "target", "builds here", "runs here", "what is missing")
    for target in document["targets"]:
        yes = ("yes" if target[key] else "no" for key in ("builds", "runs"))
        _row(targets, target["target"], *yes, target["missing"] or "")
    console.print(packages)
    console.print(targets)
    gpu = f"{document['gpu']}, compute capability {document['compute_capability']}"
    console.print(
        f"Python {document['python']}, {document['platform']}, GPU: {gpu if document['gpu'] else 'none'}, "
        f"{document['free_gb']} GB free",
        highlight=False,
    )


def _sqnr(difference: Document) -> float:
    """In a document null stands for infinite: identical tensors, or noise where the golden is all zero."""
    if difference["sqnr_db"] is not None:
        return float(difference["sqnr_db"])
    return float("-inf") if difference["max_abs"] else float("inf")


def _histogram(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in counts.items())


def _audited(audit: Document) -> list[str]:
    """What the audit found. Builds from before TensorRT lack some of it."""
    reformats = []
    if audit.get("reformats"):
        share = f"{audit['reformats']} of {audit['executed']} layers that run ({audit['reformat_share']:.1%})"
        reformats = [f"reformats: {share}"]
    return [
        f"layers by precision: {_histogram(audit['histogram'])}",
        *reformats,
        *(f"lost pin: {pin['node']} (asked {pin['wanted']}, found {pin['found']})" for pin in audit["lost"]),
        *_some("without a layer of their own, since they only move data", audit.get("removed", [])),
        *_some("lower than meant, without a pin", audit.get("below", [])),
        *_some("not lowered as meant", audit["unlowered"]),
    ]


def _some(what: str, names: list[str]) -> list[str]:
    """A line on the first few of the nodes, if there are any."""
    more = f" and {len(names) - NODES_SHOWN} more" if len(names) > NODES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NODES_SHOWN])}{more}"] if names else []
