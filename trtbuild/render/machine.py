"""What `bench` and `doctor` print."""

from __future__ import annotations

from trtbuild.render.text import Document, add_line, add_row, counted, new_console, new_table


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
