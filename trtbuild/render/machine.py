"""What `bench` and `doctor` print."""

from __future__ import annotations

from rich.console import Console

from trtbuild.render.text import Document, add_line, add_row, counted, new_console, new_table

LAYERS_SHOWN = 10


def bench(document: Document) -> None:
    facts = document["target"]
    table = new_table(
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
        add_row(table, name, counted(timed["layers"]) + lost, *times, rate, speedup, size)
    console = new_console()
    console.print(table)
    how = "CUDA graph replay" if document["method"] == "graph" else f"enqueued ({document['not_captured']})"
    add_line(console, f"{document['timed']}; {how}; {document['iterations']} iterations, in turns")
    add_line(console, f"fed {document['inputs']}")
    if facts.get("options", {}).get("tf32"):
        add_line(console, "fp32 may compute in TF32 ([tensorrt] tf32)")
    for name, why in document["not_built"].items():
        add_line(console, f"not built: {name} ({why})")
    if document["layers"]:
        _layers(console, document["layers"])


def _layers(console: Console, layers: Document) -> None:
    """The nodes that int8 saves most of, and what is left."""
    saved = {node: times["fp32"] - times["int8"] for node, times in layers["nodes"].items()}
    shown = sorted(saved, key=lambda node: -saved[node])[:LAYERS_SHOWN]
    table = new_table(
        f"layers, by what int8 saves: the first {len(shown)} of {len(saved)} nodes",
        *("node", "FP32, ms", "INT8, ms", "saved, ms"),
        numbers=3,
    )
    rows = {node: layers["nodes"][node] for node in shown}
    for name, times in {**rows, "layers of no node": layers["other"], "all layers": layers["total"]}.items():
        fp32, int8 = times["fp32"], times["int8"]
        add_row(table, name, f"{fp32:.4f}", f"{int8:.4f}", f"{fp32 - int8:.4f}")
    console.print(table)
    add_line(console, f"{layers['method']}: launched one by one, so longer than the latencies above")


def doctor(document: Document) -> None:
    console = new_console()
    packages = new_table("packages", "package", "version")
    for name, version in document["packages"].items():
        add_row(packages, name, version or "-")
    targets = new_table("targets", "target", "builds here", "runs here", "what is missing")
    for target in document["targets"]:
        yes = ("yes" if target[key] else "no" for key in ("builds", "runs"))
        add_row(targets, target["target"], *yes, target["missing"] or "")
    console.print(packages)
    console.print(targets)
    gpu = f"{document['gpu']}, compute capability {document['compute_capability']}"
    console.print(
        f"Python {document['python']}, {document['platform']}, GPU: {gpu if document['gpu'] else 'none'}, "
        f"{document['free_gb']} GB free",
        highlight=False,
    )
