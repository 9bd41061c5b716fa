"""LaTeX, of which the package booktabs is all that it needs."""

import re
from collections.abc import Sequence

from shaping_bench.publish.model import ABSENT, Entry, Table

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "±": r"$\pm$",
    ABSENT: "--",
    **{c: f"\\{c}" for c in "%_&#$"},
}
_NUMBER = r"-?\d+(?:\.\d+)?(?:e[+-]\d+)?"


def _latex_text(text: str) -> str:
    escaped = "".join(_LATEX.get(c, c) for c in text)
    # After a row's end, \\, a bracket would be read as that command's argument.
    return "{}" + escaped if escaped.startswith(("[", "*")) else escaped


def _latex_cell(text: str) -> str:
    """Numbers in mathematics mode, so that a minus is a minus."""
    if not re.match(rf"{_NUMBER}(\s|$)", text):
        return _latex_text(text)

    def exponent(number: str) -> str:
        mantissa, e, power = number.partition("e")
        return f"{mantissa}\\mathrm{{e}}{{{power[0]}}}{power[1:]}" if e else number

    def pair(match: re.Match[str]) -> str:
        return f"${exponent(match[1])} \\pm {exponent(match[2])}$"

    if "±" in text:
        return re.sub(rf"({_NUMBER}) ± ({_NUMBER})", pair, text)
    head, bracket, rest = text.partition(" (n=")
    return re.sub(_NUMBER, lambda m: f"${exponent(m[0])}$", head) + bracket + rest


def _latex_entry(cell: Entry) -> str:
    text = _latex_cell(cell.text)
    return rf"{{\bfseries\boldmath {text}}}" if cell.best else text


LATEX_SIZES = (("", 60), ("\\small", 65), ("\\footnotesize", 72), ("\\scriptsize", 80))
"""Type sizes and how many characters of each fit into a line of LaTeX's own article class."""

LATEX_LINES = 48
"""Lines of tables that fit onto a page of it, below their caption."""


def _latex_parts(table: Table) -> tuple[str, list[slice]]:
    """Type size of a table, and ranges of columns that fit a line: one above the other if need be."""
    texts = [table.col_labels, *([cell.text for cell in row] for row in table.cells)]
    # The gap between columns takes the room of three characters.
    widths = [3 + max(len(line[k]) for line in texts) for k in range(len(table.col_labels))]
    first = max(len(x) for x in (table.corner, *table.row_labels))
    size, room = next(((size, room) for size, room in LATEX_SIZES if first + sum(widths) <= room), LATEX_SIZES[-1])
    parts, start = [], 0
    for k in range(1, len(widths) + 1):
        if k == len(widths) or first + sum(widths[start : k + 1]) > room:
            parts.append(slice(start, k))
            start = k
    return size, parts


def write(tables: Sequence[Table]) -> str:
    blocks = ["% needs \\usepackage{booktabs}"]
    for table in tables:
        size, parts = _latex_parts(table)
        label = re.sub("[^a-z0-9]+", "-", table.title.lower()).strip("-")
        caption = (
            rf"\caption{{{_latex_text(table.title)}. {_latex_text(table.note[:1].upper() + table.note[1:])}.}}"
            f"\n\\label{{tab:{label}}}"
        )
        together = max(1, LATEX_LINES // (len(table.row_labels) + 3))
        for k in range(0, len(parts), together):
            above = caption if k == 0 else rf"Table~\ref{{tab:{label}}}, continued.\\[1ex]"
            body = "\n\\\\[1ex]\n".join(_latex_tabular(table, part) for part in parts[k : k + together])
            blocks.append(f"\\begin{{table}}\n\\centering{size}\n{above}\n{body}\n\\end{{table}}")
    return "\n\n".join(blocks)


def _latex_tabular(table: Table, part: slice) -> str:
    labels = table.col_labels[part]
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(labels)}}}",
        r"\toprule",
        " & ".join(_latex_text(x) for x in (table.corner, *labels)) + r" \\",
        r"\midrule",
    ]
    for label, row in zip(table.row_labels, table.cells, strict=True):
        lines.append(" & ".join([_latex_text(label), *(_latex_entry(cell) for cell in row[part])]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])
