"""What `calibrate` prints."""

from __future__ import annotations

from trtbuild.render.text import Document, add_line, add_row, new_console, new_table, some


def ranges(document: Document) -> None:
    table = new_table(f"ranges from {document['samples']} samples", "tensor", "method", "amax", numbers=1)
    for name, entry in document["ranges"].items():
        add_row(table, name, entry["method"], f"{entry['amax']:.6g}")
    console = new_console()
    console.print(table)
    add_line(console, f"{document['path']}\n{document['cache']}")


def comparison(document: Document) -> None:
    found = document["comparison"]
    differing = len(found["tensors"]) - found["equal"]
    table = new_table(
        f"{differing} of {len(found['tensors'])} ranges differ", "tensor", "amax", "other", "ratio", numbers=3
    )
    for name, pair in list(found["tensors"].items())[:differing]:  # those that differ come first
        ratio = "-" if pair["ratio"] is None else f"{pair['ratio']:.4g}"
        add_row(table, name, f"{pair['amax']:.6g}", f"{pair['other']:.6g}", ratio)
    console = new_console()
    if differing:
        console.print(table)
    else:
        add_line(console, f"all {found['equal']} ranges that both have are equal")
    for line in (*some("only here", found["only_here"]), *some("only there", found["only_there"])):
        add_line(console, line)
    add_line(console, f"{document['path']}\n{document['cache']}")
