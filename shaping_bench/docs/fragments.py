"""A Sphinx extension: parts of pages that are written by the program they are about.

A line ``<!-- generate: NAME ARGUMENTS -->`` in a page stands for the Markdown that the function of
that name in :data:`FRAGMENTS` returns. Hyperparameters, payoffs, metrics and claims are read off the
registry when the site is built, so that pages cannot say otherwise than the program.
"""

import dataclasses
import functools
import importlib
import inspect
import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.fixed import FixedStrategy
from shaping_bench.algorithms.parts import files
from shaping_bench.analysis import reference, schelling
from shaping_bench.analysis.scores import COLUMNS
from shaping_bench.claims import files as claims
from shaping_bench.claims.record import record_about, recorded
from shaping_bench.cli import app as command_line
from shaping_bench.docs import field
from shaping_bench.docs.anchors import SCRIPTS
from shaping_bench.games.adapters import ADAPTERS
from shaping_bench.games.base import Game
from shaping_bench.games.fields import written_name
from shaping_bench.metrics import METRICS, Metric
from shaping_bench.metrics.anchors import anchors_of
from shaping_bench.publish import cards, findings, references
from shaping_bench.publish import digits as digits_
from shaping_bench.publish import schelling as diagrams
from shaping_bench.publish.catalogue import catalogue
from shaping_bench.publish.model import Entry, Table
from shaping_bench.publish.report.drawing import Line, heat_map, limits, line_panel, profile_panel
from shaping_bench.publish.standings import score_entry
from shaping_bench.run.shipping import MET
from shaping_bench.spec import registry
from shaping_bench.spec.calls import split_call
from shaping_bench.spec.scenarios import load_track
from shaping_bench.speed import peers as other_codes
from shaping_bench.speed import profile
from shaping_bench.speed.deep import SEEDED

ROOT = Path(__file__).resolve().parent.parent.parent
MARK = re.compile(r"^<!-- generate: ([a-z_]+) ?(.*?) ?-->$", re.MULTILINE)


@functools.cache
def _stored(name: str) -> Any:
    """What a command has last written beside the pages, in ``NAME.json``."""
    return json.loads((ROOT / "shaping_bench" / "docs" / f"{name}.json").read_text())


# --- Markdown -----------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A docstring as Markdown: cross-references become code."""
    return re.sub(r":(?:class|func|meth|data|attr):`~?([^`]*)`", r"`\1`", text)


def cell(text: Any) -> str:
    """Text for a cell of a table; what is code in it stays so."""
    parts = re.split(r"(`+.*?`+)", prose(str(text)).replace("\n", " ").replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def code(text: Any) -> str:
    return "`" + str(text).replace("|", "\\|") + "`"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; without rows, nothing."""
    body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *body]) if body else ""


def number(x: Any) -> str:
    """A value as one would write it, to six digits."""
    if x is None:
        return "none"
    if isinstance(x, bool):
        return str(x).lower()
    if isinstance(x, float | np.floating):
        return f"{float(x):.6g}"
    if isinstance(x, tuple):
        return "(" + ",".join(number(y) for y in x) + ")" if x else "()"
    return str(x)


def paragraphs(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)


# --- hyperparameters --------------------------------------------------------------------------


def allowed(field: dataclasses.Field) -> str:
    """The values a hyperparameter may take."""
    meta = field.metadata
    if meta.get("choices"):
        return ", ".join(number(x) for x in meta["choices"])
    if isinstance(field.default, bool):
        return "true, false"
    low, high, exclusive = meta.get("low"), meta.get("high"), meta.get("exclusive")
    if low is not None and high is not None:
        return f"({low:g}, {high:g})" if exclusive else f"[{low:g}, {high:g}]"
    if low is not None:
        return f"{'>' if exclusive else '≥'} {low:g}"
    return "any"


def hyperparameters(cls: type, defaults: dict[str, Any] | None = None) -> str:
    """Name, default, range and meaning of every field."""

    def default(f: dataclasses.Field) -> str:
        value = (defaults or {}).get(f.name, f.default)
        return "required" if value is dataclasses.MISSING else code(number(value))

    fields = dataclasses.fields(cls)
    return table(
        ("hyperparameter", "default", "allowed", "meaning"),
        ((code(written_name(f)), default(f), allowed(f), cell(f.metadata.get("doc", ""))) for f in fields),
    )


def published(cls: type[Learner]) -> str:
    """The defaults that depend on the game."""
    games = list(cls.published)
    names = list(dict.fromkeys(itertools.chain.from_iterable(cls.published[game] for game in games)))
    rows = [
        [code(name), *(code(number(cls.published[g][name])) if name in cls.published[g] else "" for g in games)]
        for name in names
    ]
    if not rows:
        return ""
    return "Published for a game, and the defaults there:\n\n" + table(
        ("", *(f"[{code(game)}](#game-{game})" for game in games)), rows
    )


# --- methods ------------------------------------------------------------------------------------


def learner(name: str) -> str:
    """What there is to know of one algorithm: what it sees and plays, its numbers, how to run it."""
    cls = {**registry.ADAPTED, **registry.algorithms()}[name]
    facts = [
        ("sees of the others", f"[{cls.access}](#access)"),
        ("plays", ", ".join(sorted(cls.views)) + " games"),
        ("prepares", "yes" if cls.needs_preparation else "no"),
        ("source", cell(cls.source)),
        ("cite", cited(name)),
    ]
    about = inspect.getdoc(cls) or ""
    strategy = issubclass(cls, FixedStrategy)
    return paragraphs(
        f"({anchor('method', name)})=\n### `{name}`",
        prose(about),
        table(("", ""), [row for row in facts if row[1] and not (strategy and row[0] == "source" and row[1] == about)]),
        hyperparameters(cls),
        published(cls),
        f"```\n{command(name)}\n```" if name in registry.algorithms() else "",
    )


def cited(name: str) -> str:
    """BibTeX keys of a registered name; nothing for what needs another package."""
    return ", ".join(code(key) for key in references.keys(name)) if name in references.names() else ""


def anchor(kind: str, name: str) -> str:
    return f"{kind}-{name}"


ENCOUNTERS: tuple[tuple[str, ...], ...] = (
    ("ipd", "naive"),
    ("coin-game", "ppo"),
    ("ipd", "naive-pg"),
    ("escape-room", "pg-incentive"),
    ("point-mass",),
)
"""Games and who sits in the other seats, of which the first shows a learner at work that it can play."""


def command(name: str) -> str:
    """The shortest encounter that shows the learner at work, checked to be possible."""
    for game, *others in ENCOUNTERS:
        named = registry.make_game(game)
        learners = [registry.make_learner(text, game=game) for text in (name, *others)]
        try:
            registry.check_encounter(named, learners)
        except registry.BadInput:
            continue
        return " ".join(["shaping-bench encounter", game, name, *others])
    raise ExtensionError(f"no encounter is known that {name} can play")


def methods() -> str:
    """All algorithms with what they see and need."""
    rows = (
        (
            f"[{code(entry['name'])}](#{anchor('method', entry['name'])})",
            entry["access"],
            ", ".join(entry["views"]),
            "yes" if entry["needs_preparation"] else "",
            cell(entry["summary"]),
        )
        for entry in catalogue(["algorithms"])["algorithms"]
    )
    return table(("name", "access", "views", "prepares", "in one line"), rows)


def bibtex(*names: str) -> str:
    """The entries that these algorithms cite, folded away."""
    entries = references.bibtex(names)
    return folded("BibTeX", f"```bibtex\n{entries.strip()}\n```") if entries else ""


# --- reproduction -------------------------------------------------------------------------------


@functools.cache
def by_paper() -> dict[str, list[claims.Claim]]:
    """All claims, by paper."""
    paper_of = claims.papers()
    by_paper: dict[str, list[claims.Claim]] = {}
    for claim in claims.load_claims().values():
        by_paper.setdefault(paper_of[claim.id], []).append(claim)
    return by_paper


@functools.cache
def verdicts() -> dict[str, list[dict[str, Any]]]:
    """Recorded verdicts by claim, one per quantity."""
    by_claim: dict[str, list[dict[str, Any]]] = {}
    for row in recorded():
        by_claim.setdefault(row["claim"], []).append(row)
    return by_claim


def players(claim: claims.Claim) -> set[str]:
    return {split_call(text, "learner")[0] for text in claim.protocol.learners}


def reproduction(*names: str) -> str:
    """The published numbers about these algorithms beside ours, folded by paper.

    With ``only`` first, those in which nobody else takes part.
    """
    wanted, only = set(names), names[:1] == ("only",)
    parts = []
    for paper, known in by_paper().items():
        chosen = [c for c in known if (players(c) <= wanted if only else players(c) & wanted)]
        if not chosen:
            continue
        rows = [row for claim in chosen for row in numbers(claim)]
        recorded = [row["verdict"] for claim in chosen for row in verdicts().get(claim.id, [])]
        said = f"{recorded.count('reproduced')} of {len(recorded)} recorded numbers reproduced"
        if len(recorded) < len(rows):
            said = f"{said}, {len(rows) - len(recorded)} not recorded" if recorded else "not recorded"
        parts.append(folded(f"{paper}: {said}", table(("claim", *NUMBERS), rows)))
    if not parts:
        return "No published number of these alone is among the [claims](/claims.md)."
    about = (
        f"{about_record()} Run one again with `shaping-bench verify CLAIM`; what each says stands [here](/claims.md)."
    )
    return paragraphs(about, *parts)


NUMBERS = ("number", "published", "ours", "tolerance", "verdict")


def numbers(claim: claims.Claim) -> list[tuple[str, ...]]:
    """Rows of a claim's numbers: a link to it, then :data:`NUMBERS`."""
    judged = verdicts().get(claim.id) or [{}] * len(claim.quantities)
    rows: list[tuple[str, ...]] = []
    for q, verdict in zip(claim.quantities, judged, strict=True):
        tolerance = verdict["tolerance"] if verdict else q.tolerance
        said = verdict.get("verdict", "not recorded")
        rows.append(
            (
                f"[{code(claim.id)}](#{anchor('claim', claim.id)})",
                cell(q.text),
                digits(q.published, 6) + ("" if q.provenance == "published" else f" ({q.provenance})"),
                digits(verdict["ours"], 5) if verdict else "",
                "sampling error" if tolerance is None else digits(tolerance, 2),
                said if said in ("reproduced", "not recorded") else f"**{said}**",
            )
        )
    return rows


def digits(x: float, count: int) -> str:
    """A measured number, to that many digits."""
    return f"{x:.{count}g}"


def folded(summary: str, inside: str) -> str:
    return f"<details>\n<summary>{cell(summary)}</summary>\n\n{inside}\n\n</details>"


def about_record() -> str:
    """Where the recorded verdicts come from."""
    about = record_about()
    if not verdicts():
        return "No verdicts are recorded with this version."
    return f"Recorded on {cell(about['machine'])}, {cell(about['date'])}, commit {cell(about['commit'])}."


def all_claims() -> str:
    """Every claim with its protocol, its numbers and their verdicts."""
    parts = [about_record()]
    for paper, chosen in by_paper().items():
        parts.append(f"## {cell(paper)}")
        parts += [one_claim(claim) for claim in chosen]
    return paragraphs(*parts)


def one_claim(claim: claims.Claim) -> str:
    full = claim.protocol.at_full_budget().text if claim.protocol.full else ""
    notes = dict.fromkeys(q.note.strip() for q in claim.quantities if q.note.strip())
    return paragraphs(
        f"({anchor('claim', claim.id)})=\n### {cell(claim.id)}",
        f"{cell(claim.statement)} Source: {cell(claim.source)}. Protocol: {cell(claim.protocol.text)}."
        + (f" At the published budget: {cell(full)}." if full else ""),
        table(NUMBERS, (row[1:] for row in numbers(claim))),
        *(cell(note) for note in notes),
    )


# --- games --------------------------------------------------------------------------------------


def game(name: str, actions: str = "") -> str:
    """What there is to know of one game.

    Args:
      name: registered name.
      actions: names of the two actions, ``C,D``, for the payoff table.
    """
    entry = {**ADAPTERS, **registry.games()}[name]
    complete = not any(
        f.default is dataclasses.MISSING and f.name not in entry.defaults
        for f in dataclasses.fields(entry.cls)  # type: ignore[arg-type]
    )
    game = registry.make_game(name).value if complete else None
    rewards = payoffs(game)
    facts = [("views", ", ".join(sorted(entry.cls.views))), ("source", cell(entry.source)), ("cite", cited(name))]
    if game is not None:
        facts[1:1] = [("players", str(game.n_players)), *reported(game)]
    return paragraphs(
        f"({anchor('game', name)})=\n## `{name}`",
        cell(entry.summary[0].upper() + entry.summary[1:]) + ".",
        payoff_table(rewards, actions.split(",")) if len(rewards) == 2 else "",
        table(("", ""), [row for row in facts if row[1]]),
        hyperparameters(entry.cls, entry.defaults),
    )


def reported(game: Game) -> list[tuple[str, str]]:
    """Facts about a game's numbers that follow from its table."""
    facts = []
    if game.sizes:
        names = "; ".join(dict.fromkeys(", ".join(map(code, own)) for own in game.coordinates))
        facts.append(("parameters per player", f"{len(game.coordinates[0])}: {names}"))
    anchors = anchors_of(game)
    if anchors is not None:
        scale: list[tuple[str, float | None]] = [
            ("random play", anchors.random),
            ("social optimum", anchors.social_optimum),
        ]
        scale.append(("best response to random play", anchors.best_response))
        said = ", ".join(f"{what} {x:.4g}" for what, x in scale if x is not None)
        facts.append(("per step and player", said))
    table_of = payoffs(game)
    if not table_of:
        return facts
    if game.memory_one:
        facts.append(("discount", number(game.gamma)))
    everything = [x for row in table_of for x in row]
    facts.append(("return per step lies in", f"[{number(min(everything))}, {number(max(everything))}]"))
    facts.append(("all play action 0", ", ".join(number(row[0]) for row in table_of)))
    facts.append(("all play action 1", ", ".join(number(row[-1]) for row in table_of)))
    if game.n_players == 2:
        facts.append(("equilibria of one round", "; ".join(stage_equilibria(table_of))))
    return facts


def payoffs(game: Game | None) -> list[list[float]]:
    """Everybody's reward for each joint action, of a game that has a table of them; else nothing."""
    return [[float(x) for x in row] for row in game.table or ()] if game is not None else []


def stage_equilibria(rewards: Sequence[Sequence[float]]) -> list[str]:
    """Nash equilibria of a 2x2 game, as probabilities of action 0: the pure ones, and the mixed one
    of full support if there is one."""
    first, second = (np.array(row).reshape(2, 2) for row in rewards)
    pairs = [
        f"({1 - a}, {1 - b})"
        for a, b in itertools.product((0, 1), repeat=2)
        if first[a, b] >= first[1 - a, b] and second[a, b] >= second[a, 1 - b]
    ]
    # Each player mixes so that the other is indifferent.
    bends = [first[0, 0] - first[0, 1] - first[1, 0] + first[1, 1]]
    bends.append(second[0, 0] - second[0, 1] - second[1, 0] + second[1, 1])
    if all(bends):
        q = (first[1, 1] - first[0, 1]) / bends[0]
        p = (second[1, 1] - second[1, 0]) / bends[1]
        if 0 < p < 1 and 0 < q < 1:
            pairs.append(f"({number(float(p))}, {number(float(q))})")
    return pairs


def payoff_table(rewards: Sequence[Sequence[float]], actions: Sequence[str]) -> str:
    """Rewards of both, the row player's first."""
    names = actions if len(actions) == 2 else ("action 0", "action 1")
    first, second = rewards
    rows = [
        [f"**{cell(names[a])}**", *(f"{number(first[2 * a + b])}, {number(second[2 * a + b])}" for b in (0, 1))]
        for a in (0, 1)
    ]
    return table(("player 1 \\ player 2", *map(cell, names)), rows)


def strategies(name: str, *names: str) -> str:
    """Exact returns per step of fixed strategies against one another, the row's."""
    game = registry.make_game(name).value
    thetas = [registry.make_learner(text).value.init(jax.random.key(0), game, 0)[0] for text in names]
    pairs = jnp.stack([jnp.stack([a, b]) for a, b in itertools.product(thetas, repeat=2)])
    values = jax.jit(jax.vmap(lambda pair: game.per_step * game.value(tuple(pair), 0)))(pairs)
    values = np.asarray(values).reshape(len(names), len(names))
    return table(
        ("", *(code(x) for x in names)),
        ([code(x), *(f"{v:.3f}" for v in np.round(row, 3) + 0.0)] for x, row in zip(names, values, strict=True)),
    )


def strategy_table() -> str:
    """What the fixed strategies play in the IPD, by state."""
    game = registry.make_game("ipd").value
    rows = []
    for name, cls in registry.algorithms().items():
        if issubclass(cls, FixedStrategy):
            table_of = registry.make_learner(name).value.probabilities(game, 0)
            rows.append((code(name), *(number(round(float(p), 4)) for p in table_of)))
    return table(("", *(code(state) for state in game.coordinates[0])), rows)


def games() -> str:
    """All games."""
    rows = (
        (
            f"[{code(entry['name'])}](#{anchor('game', entry['name'])})",
            str(entry["players"] or "any"),
            ", ".join(entry["views"]),
            cell(entry["summary"]),
        )
        for entry in catalogue(["games"])["games"]
    )
    return table(("name", "players", "views", "what it is"), rows)


def presets(name: str) -> str:
    """A game's conventions, one column per preset."""
    cls = registry.games()[name].cls
    docs = {f.name: f.metadata["doc"] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    rules = dict.fromkeys(rule for preset in cls.presets.values() for rule in preset)
    rows = [
        [f"{code(rule)}: {cell(docs[rule].removesuffix('; none: as the preset'))}"]
        + [code(number(preset[rule])) for preset in cls.presets.values()]
        for rule in rules
    ]
    return table(("rule", *map(code, cls.presets)), rows)


# --- metrics, suites, README ------------------------------------------------------------------------


def metrics() -> str:
    """Every metric."""

    def span(low: float | None, high: float | None) -> str:
        if low is None and high is None:
            return "of the game"
        return f"[{'-∞' if low is None else number(low)}, {'∞' if high is None else number(high)}]"

    def definition(m: Metric) -> str:
        return cell(m.formula) + ("" if m.source == "this benchmark" else f" ({cell(m.source)})")

    rows = ((code(m.name), definition(m), cell(m.unit), m.direction, span(m.low, m.high)) for m in METRICS.values())
    return table(("name", "definition (source)", "unit", "better", "range"), rows)


def suites() -> str:
    """The suites that come with the benchmark."""
    return table(
        ("name", "encounters", "matches", "seeds", "what it is"),
        (
            (code(s["name"]), str(s["encounters"]), str(s["matches"]), str(s["seeds"]), cell(s["summary"]))
            for s in catalogue(["suites"])["suites"]
        ),
    )


def peers() -> str:
    """Other people's codes on the work that the speed benchmark times."""

    def rate(x: float) -> str:
        return f"{x / 1e6:.3g} million" if x >= 1e4 else f"{x:,.4g}" if x >= 1e3 else f"{x:.3g}"

    rows = (
        (cell(f"{p.name} ({p.version})"), cell(p.work), f"{rate(p.per_cpu_second)} {p.unit}", cell(p.differs))
        for p in other_codes.PEERS
    )
    about = f"Per CPU-second on {other_codes.MACHINE}; {other_codes.TAKEN}."
    return paragraphs(about, table(("code", "work", "per CPU-second", "differs from ours in"), rows))


def _measured() -> dict[str, Any]:
    """What ``python -m shaping_bench.speed.deep --json`` has last written here."""
    found: dict[str, Any] = _stored("where")
    return found


def where_time_goes() -> str:
    """Profiles of the rows of the speed benchmark."""
    found = _measured()
    rate, kinds = found["machine"]["matrix_rate"], list(profile.KINDS)
    rows = []
    for name, x in found["rows"].items():
        products = x["seconds"]["products"] + x["seconds"]["pieces"]
        shares = [f"{100 * x['seconds'][kind] / x['cpu_seconds']:.0f}" for kind in kinds]
        inside = f"{100 * x['flop_of_products'] / products / rate:.0f}" if x["flop_of_products"] else ""
        alone = f"{100 * x['products_alone'] / rate:.0f}" if x["products_alone"] else ""
        of_peak = f"{100 * x['flop'] / x['cpu_seconds'] / rate:.0f}"
        rows.append((cell(name), f"{x['flop'] / x['count']:.3g} / {cell(x['unit'])}", of_peak, inside, alone, *shares))
    head = (
        "work",
        "operations",
        "% of peak",
        "in products",
        "these alone",
        *(cell(profile.KINDS[kind]) for kind in kinds),
    )
    return paragraphs(_machine(found["machine"]), table(head, rows))


def compile_times() -> str:
    """CPU-seconds of compiling the rows of the speed benchmark."""
    rows = [
        (cell(name), *(f"{x['compile'][k]:.2g}" for k in ("cold", "warm")))
        for name, x in _measured()["rows"].items()
        if "compile" in x
    ]
    return table(("work", "compiling, CPU-seconds", "from the cache"), rows)


def many_seeds() -> str:
    """Throughput and memory by the number of seeds."""
    rows = []
    for name, lines in _measured().get("seeds", {}).items():
        for x in lines:
            memory = f"{x['bytes_per_seed'] / 2**20:.1f}"
            rows.append((cell(name), str(x["seeds"]), number(x["per_cpu_second"]), cell(SEEDED[name].unit), memory))
    head = ("work", "seeds", "per CPU-second", "of", "MiB per seed")
    return paragraphs(_machine(_measured()["seeds_machine"]), table(head, rows))


def _machine(machine: Mapping[str, Any]) -> str:
    rate = f"{machine['matrix_rate'] / 1e9:.0f}"
    return (
        f"{machine['date']}, {machine['cores']} cores ({machine['kind']}), {rate} GFLOP per CPU-second in a product "
        f"of 2048 x 2048 matrices, JAX {machine['versions']['jax']}{machine.get('remark', '')}."
    )


@functools.cache
def _diagrams() -> tuple[schelling.Diagram, ...]:
    """What ``python -m shaping_bench.docs.diagrams`` has last written here."""
    return tuple(schelling.from_plain(x) for x in _stored("schelling"))


def schelling_table() -> str:
    """Which stored diagrams are of social dilemmas, and why."""
    head = ("game", "players", "together", "not alone", "fear", "greed", "dilemma")
    rows = (
        (code(x.game), str(len(x.defect.mean)), *(diagrams.SAID[found] for found in x.conditions.values()))
        for x in _diagrams()
    )
    return table(head, rows)


def schelling_diagrams() -> str:
    """The stored diagrams, drawn."""
    panels = []
    for x in _diagrams():
        n = len(x.defect.mean)
        lines = [
            Line("a cooperator", np.arange(n, dtype=float), x.cooperate.mean, interval=x.cooperate.half),
            Line("a defector", np.arange(n, dtype=float), x.defect.mean, interval=x.defect.half),
            Line("mean of all", np.linspace(0.0, n - 1.0, n + 1), x.group.mean),
        ]
        ends = limits([y for line in lines for y in line.mean])
        panels.append(line_panel(lines, f"Schelling diagram of {x.game}", ends, f"{x.game}: {diagrams.origin(x)}"))
    return '<div class="diagrams">\n' + "\n".join(panels) + "\n</div>"


def stored_curves(name: str) -> str:
    """Curves out of ``NAME.json`` beside the pages, drawn: a panel each, a line per seed, or per preparation, as its
    ``line`` calls them."""
    panels = []
    for x in _stored(name):
        steps = np.asarray(x["steps"], float)
        lines = [Line(f"{x['line']} {k}", steps, np.asarray(y, float)) for k, y in enumerate(x["curves"], 1)]
        panels.append(line_panel(lines, x["title"], tuple(x["limits"]), x["title"]))
    return '<div class="diagrams">\n' + "\n".join(panels) + "\n</div>"


def verdict_figures(*names: str) -> str:
    """Recorded numbers of claims that ask the same, drawn side by side: a panel for each quantity of several.

    Dots are ours with two standard errors, bars what is asked. Each claim is a column, numbered below.

    Raises:
      ExtensionError: one of the claims is not recorded.
    """
    if missing := [x for x in names if x not in verdicts()]:
        raise ExtensionError(f"verdict_figures: {', '.join(missing)} not recorded")
    by_quantity: dict[str, dict[str, Mapping[str, Any]]] = {}
    for name in names:
        for row in verdicts()[name]:
            by_quantity.setdefault(row["quantity"], {})[name] = row
    panels = []
    for quantity, rows in by_quantity.items():
        if len(rows) < 2:
            continue
        found = [rows.get(x) for x in names]
        dots = [
            (str(k), x["ours"], x["ours"] - 2 * x["standard_error"], x["ours"] + 2 * x["standard_error"])
            if x
            else (str(k), None, None, None)
            for k, x in enumerate(found, 1)
        ]
        asked = [x["published"] if x else None for x in found]
        ends = limits([y for _, *values in dots for y in values if y is not None] + [y for y in asked if y is not None])
        panels.append(profile_panel(dots, asked, quantity, quantity, y_limits=ends))
    key = "; ".join(f"{k} {code(x)} ({verdicts()[x][0]['seeds']} seeds)" for k, x in enumerate(names, 1))
    command = code(f"shaping-bench verify {' '.join(names)}")
    said = f"Columns: {key}. Dots are ours with two standard errors, bars what is asked; {command}."
    return paragraphs('<div class="diagrams">\n' + "\n".join(panels) + "\n</div>", said)


def reference_card(track: str, tier: str | None = None) -> str:
    """The card of a track's shipped results, of a tier or of the last that is shipped, and where they come from."""
    card, known = cards.reference_card(load_track(track), tier), reference.load(load_track(track), tier=tier)
    if card is None or known is None:
        return f"No results of the {track} track are shipped yet."
    columns = [c for c in COLUMNS if any(row[c]["value"] is not None for row in card.rows)]
    ordinal = any(row["ordinal"]["generality"]["value"] is not None for row in card.rows)
    told = card.track.told
    rows = [
        (
            str(row["rank"] or ""),
            code(row["learner"]),
            *(f"**{x.text}**" if x.best else x.text for x in (score_entry(row[c]) for c in columns)),
            *[score_entry(row["ordinal"]["generality"]).text] * ordinal,
            score_entry(row["gain"]).text,
            *("" if row[name] is None else digits_.number(row[name], 2) for name in told),
            str(row["lost"]),
        )
        for row in card.rows
    ]
    said = known.manifest
    origin = (
        f"{card.title[0].upper()}{card.title[1:]}, {said['tier']['seeds']} seeds; `{said['command']}` at commit "
        f"`{said['commit'][:10]}`."
    )
    heads = ("", "rule", *columns, *["ordinal generality"] * ordinal, "adversary's gain", *told, "lost")
    return paragraphs(origin, table(heads, rows), _without_row(card))


def _without_row(card: cards.Card) -> str:
    """Registered rules that have no row on a card and what is missing, so that nobody takes it for the field."""
    rows = [(cell(x.why), ", ".join(map(code, x.rules))) for x in card.lacking]
    said = "Registered rules of which no setting has a row on it, at their defaults, those first that could have one:"
    return paragraphs(said, table(("what is missing", "rules"), rows)) if rows else ""


def shipped_policies() -> str:
    """Policies that ``reference(policy=NAME)`` plays, how they were trained, and what they get."""
    rows = [
        (
            code(name),
            code(x["rule"]),
            code(x["game"]),
            str(x["updates"]),
            *(", ".join(digits_.number(y, 3) for y in x["measured"][other]) for other in MET),
            code(x["command"]),
        )
        for name, x in sorted(files.shipped().items())
    ]
    heads = ("policy", "of the rule", "game", "updates", *(f"against {x}" for x in MET), "trained by")
    return table(heads, rows) if rows else "None is shipped yet."


def reference_findings(track: str) -> str:
    """What a track's shipped results say, in sentences."""
    found = findings.findings(load_track(track))
    said = [
        f"{k}. {cell(x.text)}: {digits_.with_interval(x.value, (x.low, x.high), digits_.decimals([x.value]))}. "
        + (f"({cell(x.known)}.) " if x.known else "")
        + code(x.command)
        for k, x in enumerate(found, 1)
    ]
    return "\n".join(said)


def field_findings(suite: str) -> str:
    """Where a field's results come from, and what they say, in sentences."""
    found = _stored(suite)
    games = ", ".join(map(code, found["games"]))
    commits = ", ".join(code(x[:10]) for x in found["commits"])
    origin = (
        f"{len(found['rules'])} rules, each with each in {games}, {found['seeds']} seeds: {found['cells']} encounters, "
        f"`shaping-bench run {suite} -o results/{suite}` at commit {commits}. Every question, those left open too: "
        f"`python -m shaping_bench.docs.field results/{suite}`."
    )
    said = [
        f"{k}. {cell(x['text'])}: {digits_.with_interval(x['value'], (x['low'], x['high']), 2)}"
        f"{'' if x['units'] == found['seeds'] else ', over ' + str(x['units']) + ' preparations'}."
        for k, x in enumerate((x for x in found["answers"] if x["text"]), 1)
    ]
    asked = field.questions(suite)
    rows = [
        (cell(q.more), digits_.with_interval(x["value"], (x["low"], x["high"]), 2), str(x["units"]))
        for q, x in zip(asked, found["answers"], strict=True)
        if not x["text"]
    ]
    left = "Asked as well, and left open by the corrected interval (the numbers and their plain 95 % intervals):"
    tabled = paragraphs(left, table(("is it so that", "difference", "seeds or preparations"), rows)) if rows else ""
    return paragraphs(origin, "\n".join(said), tabled)


def field_map(suite: str, number: str) -> str:
    """Who gets what opposite whom (``own``), or by how much who is ahead (``ahead``), averaged over the games."""
    found = _stored(suite)
    own = np.mean([x["scores"] for x in found["games"].values()], axis=0)
    values = own - own.T if number == "ahead" else own
    rules = tuple(found["rules"])
    rows = tuple(tuple(Entry(digits_.number(float(x), 2), mean=float(x)) for x in row) for row in values)
    shown = {"own": "what the row gets opposite the column", "ahead": "by how much the row is ahead of the column"}
    title = f"{shown[number]}, mean over {', '.join(found['games'])}"
    drawn = Table(title=title, note="", rows="rule", cols="opposite", row_labels=rules, col_labels=rules, cells=rows)
    return heat_map(drawn, limits(values.ravel(), margin=0.0))


def field_adoption(suite: str) -> str:
    """Who should adopt what where everybody else plays a rule: the best adopter and what it gains, by game."""
    found = _stored(suite)

    def gain(x: Mapping[str, Any], k: int) -> str:
        if x["exploitability"][k] <= 0.0:
            return f"stay ({digits_.number(x['exploitability'][k], 2)})"
        shown = digits_.with_interval(x["exploitability"][k], x["exploitability_ci"][k], 2)
        return f"{cell(x['exploiter'][k])} {shown}"

    rows = [[code(rule), *(gain(x, k) for x in found["games"].values())] for k, rule in enumerate(found["rules"])]
    return table(("where all play", *found["games"]), rows)


def field_ranks(suite: str) -> str:
    """Return among their like and alpha-rank of every rule, by game, and the symmetric equilibria."""
    found = _stored(suite)

    def shown(x: Mapping[str, Any], k: int) -> str:
        rank = digits_.with_interval(x["alpha_rank"][k], x["alpha_rank_ci"][k], 2)
        return f"{digits_.number(x['self_play'][k], 2)}; " + (f"**{rank}**" if x["alpha_rank"][k] >= 0.1 else rank)

    rows = [[code(rule), *(shown(x, k) for x in found["games"].values())] for k, rule in enumerate(found["rules"])]
    return table(("rule", *found["games"]), rows)


def field_equilibria(suite: str) -> str:
    """Symmetric equilibria of the game between rules, by game."""
    rows = []
    for game, x in _stored(suite)["games"].items():
        for e in x["equilibria"]:
            shares = ", ".join(f"{digits_.number(share, 2)} {code(rule)}" for rule, share in e["shares"].items())
            stays = "" if e["stays"] is None else digits_.number(e["stays"], 2)
            rows.append((game, shares, digits_.number(e["payoff"], 2), stays))
    return table(("game", "shares of the rules", "return", "stays in this share of resamples (pure ones)"), rows)


def field_costs(suite: str) -> str:
    """Environment steps of self-play per seed, the share of the social optimum it ends with, and what a tenth costs."""
    found = _stored(suite)
    rows = []
    for k, rule in enumerate(found["rules"]):
        row = [code(rule)]
        for x in found["games"].values():
            gained, steps = x["scores"][k][k], x["steps_per_seed"][k]
            price = digits_.brief(0.1 * steps / gained) if gained > 0.05 else "none gained"
            row.append(f"{digits_.number(gained, 2)} for {digits_.brief(steps)}: {price}")
        rows.append(row)
    return table(("rule", *found["games"]), rows)


def gains_origin() -> str:
    """Where gains by the number of players come from."""
    found = _stored("players")
    name = found["suite"]
    return (
        f"{found['cells']} encounters of the suite `{name}`, {found['seeds']} seeds each; "
        f"`python -m shaping_bench.docs.players results/{name}`."
    )


def gains_table() -> str:
    """Gains by the number of players, with half of their 95 % intervals over units."""

    def shown(x: Mapping[str, Any], name: str) -> str:
        mean, half = x[name]
        return "" if math.isnan(mean) else f"{digits_.number(mean, 2)} ± {digits_.number(half, 2)}"

    head = ("game", "N", "naive learners alone", "there is to gain", "rule", "own gain", "as a share", "others' gain")
    rows = (
        (
            cell(x["series"]),
            str(x["players"]),
            digits_.number(x["naive"], 2),
            digits_.number(x["optimum"] - x["naive"], 2),
            code(x["learner"]),
            shown(x, "own"),
            f"**{shown(x, 'share')}**" if shown(x, "share") else "",
            shown(x, "others"),
        )
        for x in sorted(_stored("players")["gains"], key=lambda x: (x["series"], x["learner"], x["players"]))
    )
    return table(head, rows)


def gains_figure() -> str:
    """Own gains over the number of players, as a share of what there is to gain, or in reward where there is nothing: a
    panel per series, a line per rule, bands of 95 % over units."""
    found = _stored("players")["gains"]
    panels = []
    for series in dict.fromkeys(x["series"] for x in found):
        lines = []
        here = [x for x in found if x["series"] == series]
        of = "own" if any(math.isnan(x["share"][0]) for x in here) else "share"
        ends = limits([x[of][0] + sign * x[of][1] for x in here for sign in (-1.0, 1.0)] + [0.0])
        for learner in dict.fromkeys(x["learner"] for x in found):
            rows = [x for x in found if (x["series"], x["learner"]) == (series, learner)]
            numbers = np.array([x["players"] for x in rows], float)
            means, halves = np.array([x[of] for x in rows], float).T
            lines.append(Line(learner, numbers, means, interval=halves))
        what = "own gain as a share" if of == "share" else "own gain in reward"
        panels.append(line_panel(lines, f"{what} by players in {series}", ends, f"{series}, {what}"))
    return '<div class="diagrams">\n' + "\n".join(panels) + "\n</div>"


def gains_trends() -> str:
    """Slopes of gains over the number of players, and what their test says."""
    said = {"share": "own gain as a share", "own": "own gain", "share_of_largest": "as a share of the largest reward"}
    said["others"] = "gain of the others"
    rows = []
    for name, trends in _stored("players")["trends"].items():
        for x in trends:
            slope = f"{digits_.signed(x['slope'])} ± {digits_.number(x['half'], 2)}"
            numbers = ", ".join(map(str, x["players"]))
            tested = (digits_.number(x["p"], 3), digits_.number(x["adjusted"], 3)) if name == "share" else ("", "")
            rows.append((said[name], cell(x["series"]), code(x["learner"]), numbers, slope, *tested))
    head = ("of what", "game", "rule", "N", "slope per player", "p", "corrected")
    return table(head, rows)


def gains_together() -> str:
    """What rules in all seats return more than naive learners, by the number of players."""
    rows = (
        (
            cell(x["series"]),
            str(x["players"]),
            code(x["learner"]),
            digits_.signed(x["gain"]),
            "" if math.isnan(x["share"]) else digits_.number(x["share"], 2),
        )
        for x in sorted(_stored("players")["together"], key=lambda x: (x["series"], x["learner"], x["players"]))
    )
    return table(("game", "N", "in all seats", "gain of the mean player", "as a share"), rows)


def anchors_table() -> str:
    """What scripts return when they sit in all seats, by play, and exactly where the game has it."""

    def shown(x: Mapping[str, Any], decimals: int) -> str:
        exact = "" if x["exact"] is None else f" ({digits_.number(x['exact'], decimals)})"
        return f"{digits_.number(x['mean'], decimals)} ± {digits_.number(x['error'], decimals)}{exact}"

    rows = []
    for x in _stored("anchors"):
        values = [x[script] for script in SCRIPTS]
        decimals = 1 if max(abs(y["mean"]) for y in values) > 100 else 4
        best = "" if x["optimum"] is None else digits_.number(x["optimum"]["value"], decimals)
        sizes = (str(x["players"]), str(x["episodes"]), str(x["steps"]))
        rows.append((code(x["game"]), *sizes, *(shown(y, decimals) for y in values), best))
    head = (
        "game",
        "players",
        "episodes",
        "of steps",
        *(code(x) for x in SCRIPTS),
        "social optimum, as the game has it",
    )
    return table(head, rows)


def commands() -> str:
    """Every command with its options, as the command line's own help has them."""
    text = command_line.generate_docs(output_format="markdown")
    text = text[text.index("\n## ", text.index("**Commands**")) :]
    # The usage lines hold how this very process was started.
    return re.sub(r"```console\n(shaping-bench [\w-]+)( -m \w+)?", r"```\n\1", text).strip()


def about(module: str) -> str:
    """What a module says of itself, but for its first line."""
    text = inspect.getdoc(importlib.import_module(module)) or ""
    return prose(text.partition("\n\n")[2]).replace("::\n", ":\n")


def readme(*title: str) -> str:
    """A section of the README, without its heading.

    Raises:
      ExtensionError: there is no such section.
    """
    heading = " ".join(title)
    match = re.search(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    if match is None:
        raise ExtensionError(f"README.md has no section {heading!r}")
    return match[1].strip()


FRAGMENTS: dict[str, Callable[..., str]] = {
    f.__name__: f
    for f in (
        about,
        all_claims,
        anchors_table,
        bibtex,
        commands,
        compile_times,
        field_adoption,
        field_costs,
        field_equilibria,
        field_findings,
        field_map,
        field_ranks,
        gains_figure,
        gains_origin,
        gains_table,
        gains_together,
        gains_trends,
        game,
        games,
        learner,
        many_seeds,
        methods,
        metrics,
        peers,
        stored_curves,
        presets,
        readme,
        reference_card,
        reference_findings,
        shipped_policies,
        reproduction,
        schelling_diagrams,
        schelling_table,
        strategies,
        strategy_table,
        suites,
        verdict_figures,
        where_time_goes,
    )
}


def expanded(text: str) -> str:
    """A page with what its marks stand for.

    Raises:
      ExtensionError: an unknown fragment.
    """

    def write(match: re.Match[str]) -> str:
        name, arguments = match.groups()
        if name not in FRAGMENTS:
            raise ExtensionError(f"no fragment {name!r}; allowed: {', '.join(FRAGMENTS)}")
        return FRAGMENTS[name](*arguments.split())

    return MARK.sub(write, text)


def setup(app: Sphinx) -> dict[str, Any]:
    def read(app: Sphinx, page: str, source: list[str]) -> None:
        source[0] = expanded(source[0])

    app.connect("source-read", read)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
