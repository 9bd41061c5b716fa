"""HTML tables, which a page may fill with links."""

import html
from collections.abc import Callable, Sequence

from shaping_bench.publish.model import Entry, Table


def write(tables: Sequence[Table]) -> str:
    return "\n".join(html_table(table) for table in tables)


def html_table(table: Table, link: Callable[[tuple[str, ...]], str | None] | None = None) -> str:
    """One HTML table with its caption; a region that scrolls if the screen is narrow.

    Args:
      link: from an entry's ``hashes`` to the address that its number shall link to, or None.
    """
    escape = html.escape

    def shown(cell: Entry) -> str:
        address = link(cell.hashes) if link and cell.hashes else None
        text = f"<strong>{escape(cell.text)}</strong>" if cell.best else escape(cell.text)
        return text if address is None else f'<a href="{escape(address)}">{text}</a>'

    # Long names of metrics may break after an underscore.
    names = [escape(x).replace("_", "_<wbr>") for x in (table.corner, *table.col_labels)]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = [
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(table.title)}">',
        f"<table>\n<caption><span>{escape(table.title)}</span> <small>{escape(table.note)}</small></caption>",
        f"<thead><tr>{head}</tr></thead>\n<tbody>",
    ]
    for label, row in zip(table.row_labels, table.cells, strict=True):
        entries_ = "".join(f"<td{_title(cell)}>{shown(cell)}</td>" for cell in row)
        lines.append(f'<tr><th scope="row">{escape(label)}</th>{entries_}</tr>')
    return "\n".join([*lines, "</tbody>\n</table>\n</div>"])


def _title(cell: Entry) -> str:
    return f' title="{cell.diverged} of {cell.runs} runs diverged"' if cell.diverged else ""
