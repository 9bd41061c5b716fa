"""The ways to write tables: a new one is a module with a function ``write``, a line here, and its
name among ``Format`` in ``cli.py``.

A writer gets tables whose entries are formatted already, and prints their texts.
"""

from collections.abc import Callable, Mapping, Sequence

from shaping_bench.errors import unknown
from shaping_bench.publish.model import Table
from shaping_bench.publish.writers import csv, html, json, latex, markdown

WRITERS: Mapping[str, Callable[[Sequence[Table]], str]] = {
    "md": markdown.write,
    "latex": latex.write,
    "csv": csv.write,
    "json": json.write,
    "html": html.write,
}


def render(tables: Sequence[Table], fmt: str) -> str:
    """Tables as ``"md"``, ``"latex"`` (booktabs), ``"csv"``, ``"json"`` or ``"html"``.

    Raises:
      BadInput: an unknown format.
    """
    if fmt not in WRITERS:
        raise unknown("format", fmt, WRITERS)
    return WRITERS[fmt](tables)
