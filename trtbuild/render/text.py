"""Tables and lines on stdout, with rich."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

NODES_SHOWN = 5
LOG_WIDTH = 140  # columns, where stdout is no terminal
Document = dict[str, Any]


def new_console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=LOG_WIDTH)


def new_table(title: str, *columns: str, numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are aligned to the right."""
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        right = index >= len(columns) - numbers
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    return table


def add_line(console: Console, text: str) -> None:
    """A line of text that is never wrapped: a path stays whole."""
    console.print(escape(text), highlight=False, soft_wrap=True)


def add_row(table: Table, *cells: object) -> None:
    table.add_row(*(escape(str(cell)) for cell in cells))


def some(what: str, names: list[str]) -> list[str]:
    """A line on the first few of the nodes, if there are any."""
    more = f" and {len(names) - NODES_SHOWN} more" if len(names) > NODES_SHOWN else ""
    return [f"{what}: {', '.join(names[:NODES_SHOWN])}{more}"] if names else []


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {precision}" for precision, count in counts.items())
