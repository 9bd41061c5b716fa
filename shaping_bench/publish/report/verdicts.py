"""Published numbers beside ours, as recorded with the benchmark."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shaping_bench.publish.digits import significant
from shaping_bench.publish.report.markup import details, escape, plural, region

_MARKS = {"reproduced": "✓ reproduced", "missed": "✗ missed"}


def published_numbers(rows: Sequence[Mapping[str, Any]], papers: Mapping[str, str], about: Mapping[str, str]) -> str:
    """Verdicts by paper, with their filter; empty if none are recorded.

    Args:
      rows: as of :func:`shaping_bench.claims.record.recorded`.
      papers: claim to paper.
      about: where and when they were made.
    """
    if not rows:
        return ""
    by_paper: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_paper.setdefault(papers.get(row["claim"], "Other"), []).append(row)
    origin = ", ".join(escape(about[key]) for key in ("date", "machine") if about.get(key))
    reproduced = sum(row["verdict"] == "reproduced" for row in rows)
    parts = [
        f"<p><strong>{reproduced} of {len(rows)}</strong> numbers that papers, their codes' records, independent "
        "computations or closed forms state are reproduced, within tolerances that are argued for each. This "
        "is the benchmark's own record, not part of this run"
        f"{f' ({origin})' if origin else ''}; <code>shaping-bench verify</code> makes it again.</p>",
        details("At which commits", f"<p><code>{escape(about['commit'])}</code></p>") if about.get("commit") else "",
        '<form class="filters" data-filters="claims" hidden><label>Verdict <select name="verdict" autocomplete="off">'
        '<option value="">all</option><option value="reproduced">reproduced</option>'
        '<option value="missed">missed</option></select></label><button type="reset">Reset</button>'
        '<output class="count" aria-live="polite"></output></form>',
    ]
    for paper, chosen in by_paper.items():
        good = sum(row["verdict"] == "reproduced" for row in chosen)
        summary = f"{paper}: {good} of {plural(len(chosen), 'number')} reproduced"
        parts.append(details(summary, _table(paper, chosen), kind="paper"))
    return "\n".join(parts)


def _table(paper: str, rows: Sequence[Mapping[str, Any]]) -> str:
    head = "".join(
        f'<th scope="col">{name}</th>'
        for name in ("what", "verdict", "published", "ours", "difference", "tolerance", "seeds")
    )
    body = "".join(_row(row) for row in rows)
    return region(paper, f'<table class="claims"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>')


def _row(row: Mapping[str, Any]) -> str:
    verdict = str(row["verdict"])
    # A verdict that is not known here is shown as it is called.
    mark = _MARKS.get(verdict, verdict)
    spread = f' <span class="spread">± {_number(row["std"], 2)}</span>' if row.get("std") is not None else ""
    lost = f" ({row['diverged']} diverged)" if row.get("diverged") else ""
    return (
        f'<tr data-verdict="{escape(verdict)}"><th scope="row"><span>{escape(row["statement"])}</span>'
        f"<small>{escape(row['quantity'])}; {escape(row['source'])}</small>{_how(row)}</th>"
        f'<td class="verdict {escape(verdict)}">{escape(mark)}</td>'
        f"<td>{_number(row['published'], 4)}</td><td>{_number(row['ours'], 4)}{spread}</td>"
        f"<td>{_number(row['difference'], 2)}</td><td>{_number(row['tolerance'], 2)}</td>"
        f"<td>{escape(row['seeds'])}{lost}</td></tr>"
    )


def _how(row: Mapping[str, Any]) -> str:
    """The command, the budget, why the tolerance is what it is, and what is known of a miss."""
    told = [
        f"<code>shaping-bench verify {escape(row['claim'])}</code>",
        escape(row.get("budget") or ""),
        f"Preparation: {escape(row['preparation'])}" if row.get("preparation") else "",
        f"Provenance: {escape(row['provenance'])}" if row.get("provenance") else "",
        f"Tolerance: {escape(row['why'])}" if row.get("why") else "",
        escape(row.get("note") or ""),
    ]
    said = "".join(f"<p>{x}</p>" for x in told if x)
    return details("how", said, kind="how")


def _number(x: object, digits: int) -> str:
    if not isinstance(x, int | float) or not math.isfinite(x):
        return "\N{EN DASH}"
    return significant(x, digits)
