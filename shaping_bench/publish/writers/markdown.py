"""Markdown, with pipe tables."""

from collections.abc import Sequence

import tabulate

from shaping_bench.publish.model import Table


def write(tables: Sequence[Table]) -> str:
    blocks = []
    for table in tables:
        body = [
            [escaped(label), *(f"**{escaped(cell.text)}**" if cell.best else escaped(cell.text) for cell in row)]
            for label, row in zip(table.row_labels, table.cells, strict=True)
        ]
        grid = tabulate.tabulate(
            body,
            headers=[escaped(x) for x in (table.corner, *table.col_labels)],
            tablefmt="pipe",
            disable_numparse=True,
            colalign=("left", *["right"] * len(table.col_labels)),
        )
        blocks.append(f"### {table.title}\n\n{table.note}\n\n{grid}")
    return "\n\n".join(blocks)


def escaped(text: str) -> str:
    return text.replace("|", "\\|")
