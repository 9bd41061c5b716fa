"""CSV: tidy, one line per entry."""

import csv
import io
import re
from collections.abc import Sequence

from shaping_bench.publish import digits
from shaping_bench.publish.model import Entry, Table


def write(tables: Sequence[Table]) -> str:
    """Tidy, one line per entry; the statistics have the digits of the text."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    statistics = ["mean", "std", "median", "iqm", "se", "ci_low", "ci_high"]
    writer.writerow(["table", "row", "column", "text", *statistics, "n", "runs", "diverged", "best"])
    for table in tables:
        for label, row in zip(table.row_labels, table.cells, strict=True):
            for column, cell in zip(table.col_labels, row, strict=True):
                values = [cell.mean, cell.std, cell.median, cell.iqm, cell.se, *(cell.ci or (None, None))]
                numbers = ["" if x is None else digits.number(x, _shown_decimals(cell, table)) for x in values]
                counts = [cell.n, cell.runs, cell.diverged, int(cell.best)]
                writer.writerow([table.title, label, column, cell.text, *numbers, *counts])
    return out.getvalue().rstrip("\n")


def _shown_decimals(cell: Entry, table: Table) -> int:
    """Decimals of a cell's text: a summary has columns of different scales."""
    number = re.match(r"-?\d+(?:\.(\d+))?", cell.text)
    return len(number[1] or "") if number and "e" not in cell.text else table.decimals
