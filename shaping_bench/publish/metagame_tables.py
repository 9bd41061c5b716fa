"""Tables of the meta-game, and what ``shaping-bench metagame`` prints."""

import dataclasses
from pathlib import Path

import numpy as np

from shaping_bench.analysis.metagame import MetaGame, analyse
from shaping_bench.analysis.solvers import MAX_STATES, POPULATION, Array, alike, joined, span
from shaping_bench.errors import BadInput, unknown
from shaping_bench.publish import digits
from shaping_bench.publish.model import ABSENT, Entry, Table
from shaping_bench.publish.writers import WRITERS, render
from shaping_bench.store import results as results_
from shaping_bench.store.results import Results

_ADOPTER = "row: rule of a single adopter; column: rule of everybody else"


def meta_tables(meta: MetaGame) -> list[Table]:
    """The rules as strategies, who gains by adopting which, what that does to the others, equilibria."""
    notes = [meta.note, "intervals: 95 % bootstrap over training seeds, or over preparations where seeds share several"]
    if meta.left_out:
        notes.append(f"left out: {', '.join(f'{label} ({why})' for label, why in meta.left_out.items())}")
    if meta.diverged.any():
        notes.append("(n=a/b): a of b seeds have a return, the others enter no number")
    note = "; ".join(notes)
    gain = _adoption(
        meta,
        "gain of adopting",
        f"{_ADOPTER}; the adopter's return minus the others'; {note}",
        meta.gain,
        meta.gain_ci,
    )
    effect = _adoption(
        meta,
        "effect of adopting on the others",
        f"{_ADOPTER}; return of one of the others against the adopter minus that among themselves; {note}",
        meta.effect,
        meta.effect_ci,
        on_others=True,
    )
    n = len(meta.rules)
    chance = [
        [Entry(ABSENT) if i == j else _entry(meta.gain_chance[i, j], 2, hashes=_behind(meta, i, j)) for j in range(n)]
        for i in range(n)
    ]
    return [
        _strategies(meta, note),
        gain,
        effect,
        dataclasses.replace(
            gain,
            title=f"{meta.game}: probability that adopting gains",
            note=f"{_ADOPTER}; fraction of resamples of the training seeds; {note}",
            cells=tuple(map(tuple, chance)),
            decimals=2,
        ),
        _equilibria(meta, note),
    ]


def _strategies(meta: MetaGame, note: str) -> Table:
    n, decimals = len(meta.rules), _decimals(meta)
    used = np.array([x.shares for x in meta.equilibria]).reshape(-1, n) > 0.0
    ranked = bool(np.isfinite(meta.alpha_rank).all())
    taken = sum((basin.fraction * basin.shares for basin in meta.basins), np.zeros(n))
    rows = []
    for i, c in enumerate(alike(n, meta.players)):  # c: everybody else plays i too
        k = int(meta.exploiter[i])
        own, leaving = _counts(meta, (i, c)), _counts(meta, (k, c), (i, c))
        rows.append(
            (
                _entry(meta.payoffs[i, c], decimals, meta.payoff_ci[i, c], counts=own, hashes=meta.hashes[i][c]),
                _entry(
                    meta.exploitability[i],
                    decimals,
                    meta.exploitability_ci[i],
                    counts=leaving,
                    hashes=_behind(meta, k, i),
                ),
                Entry(meta.rules[k]),
                _entry(meta.alpha_rank[i], 2, meta.alpha_rank_ci[i]) if ranked else Entry(ABSENT),
                _entry(taken[i], 2),
                Entry(str(int(used[:, i].sum())), mean=float(used[:, i].sum())),
            )
        )
    explained = (
        "self-play: return where everybody plays the rule; gain from leaving: largest of a single adopter of another "
        "rule there; alpha-rank: mass in the limit of strong selection, "
        f"{'two' if meta.players == 2 else meta.players} populations of {POPULATION}"
        f"{'' if ranked else f' (of at most {MAX_STATES} profiles)'}; replicator: share that the dynamics end with, "
        "mean over uniformly drawn mixtures; equilibria: "
        f"number of symmetric Nash equilibria that use it, of {len(meta.equilibria)}"
    )
    return Table(
        title=f"{meta.game}: rules as strategies",
        note=f"{explained}; {note}",
        rows="rule",
        cols="",
        row_labels=meta.rules,
        col_labels=("self-play", "gain from leaving", "left best for", "alpha-rank", "replicator", "equilibria"),
        cells=tuple(rows),
        decimals=decimals,
    )


def _adoption(meta: MetaGame, title: str, note: str, values: Array, intervals: Array, on_others: bool = False) -> Table:
    n, decimals = len(meta.rules), _decimals(meta)
    among, with_adopter = alike(n, meta.players), joined(n, meta.players)

    def shown(i: int, j: int) -> Entry:
        if i == j:
            return Entry(ABSENT)
        # Of two players an adopter's own return and its effect come from the same encounters.
        after = (j, int(with_adopter[i, j])) if on_others and meta.players > 2 else (i, int(among[j]))
        before = (j, int(among[j]))
        hashes = tuple(dict.fromkeys(x for row, c in (after, before) for x in meta.hashes[row][c]))
        counts = _counts(meta, after, before)
        return _entry(values[i, j], decimals, intervals[i, j], counts=counts, hashes=hashes)

    return Table(
        title=f"{meta.game}: {title}",
        note=note,
        rows="adopter",
        cols="everybody else",
        row_labels=meta.rules,
        col_labels=meta.rules,
        cells=tuple(tuple(shown(i, j) for j in range(n)) for i in range(n)),
        decimals=decimals,
    )


def _equilibria(meta: MetaGame, note: str) -> Table:
    decimals = _decimals(meta)
    used = [i for i in range(len(meta.rules)) if any(x.shares[i] > 0.0 for x in meta.equilibria)]
    rows = [
        (
            *(_entry(x.shares[i], 2) if x.shares[i] > 0.0 else Entry(ABSENT) for i in used),
            _entry(x.payoff, decimals),
            Entry(ABSENT) if x.chance is None else _entry(x.chance, 2),
        )
        for x in meta.equilibria
    ]
    incomplete = (
        "; not all supports were tried" if meta.players == 2 else "; mixtures of three rules and more are those found"
    )
    pairs = ", ".join(" and ".join(meta.rules[i] for i in profile) for profile in meta.pure_profiles)
    explained = (
        "shares of the rules in each symmetric Nash equilibrium; stays: fraction of resamples of the training seeds in "
        "which nobody gains by leaving it (pure ones); "
        f"unlike rules that are best replies to each other: {pairs or 'none'}"
        f"{'' if meta.complete else incomplete}"
    )
    return Table(
        title=f"{meta.game}: symmetric equilibria",
        note=f"{explained}; {note}",
        rows="equilibrium",
        cols="",
        row_labels=tuple(f"{k + 1} ({_kind(x.chance)})" for k, x in enumerate(meta.equilibria)),
        col_labels=(*(meta.rules[i] for i in used), "return", "stays"),
        cells=tuple(rows),
        decimals=decimals,
    )


def _kind(chance: float | None) -> str:
    return "pure" if chance is not None else "mixed"


def _entry(
    x: float,
    decimals: int,
    interval: Array | None = None,
    *,
    counts: tuple[int, int] = (0, 0),
    hashes: tuple[str, ...] = (),
) -> Entry:
    """A number with its interval; ``counts`` are the seeds with a return, and all."""
    n, runs = counts
    text = digits.number(x, decimals)
    ci = None
    if interval is not None:
        ci = (float(interval[0]), float(interval[1]))
        text = digits.with_interval(x, ci, decimals)
    if n < runs:
        text += f" (n={n}/{runs})"
    return Entry(text, mean=float(x), ci=ci, n=n, runs=runs, diverged=runs - n, hashes=hashes)


def _decimals(meta: MetaGame) -> int:
    return digits.decimals_of_range(span(meta.payoffs))


def _counts(meta: MetaGame, *pairs: tuple[int, int]) -> tuple[int, int]:
    """Seeds with a return, and all, of the pairs that a number is made of."""
    runs = sum(int(meta.runs[p]) for p in pairs)
    return runs - sum(int(meta.diverged[p]) for p in pairs), runs


def _behind(meta: MetaGame, i: int, j: int) -> tuple[str, ...]:
    """Cells behind what an adopter of i gains or does where everybody plays j."""
    c = alike(len(meta.rules), meta.players)[j]
    return tuple(dict.fromkeys((*meta.hashes[i][c], *meta.hashes[j][c])))


def meta_game_command(source: Results | Path | str, game: str | None = None, fmt: str = "md") -> str:
    """What ``shaping-bench metagame`` prints: the tables of one game, or of all that have one.

    Raises:
      BadInput: an unknown name, a directory without results, or no rules that all met each other.
    """
    if fmt not in WRITERS:
        raise unknown("format", fmt, WRITERS)
    results = results_.opened(source)
    analysed = {name: analyse(results, name) for name in ([game] if game else results.games)}
    present = [meta for meta in analysed.values() if meta is not None]
    if not present:
        raise BadInput(
            f"results directory {str(results.directory)!r} has no meta-game of {', '.join(analysed)}; allowed: "
            "games in which at least two rules met each other and themselves (pairs: all), and in games of more than "
            "two players in all mixtures (lineups: mixtures)"
        )
    return render([table for meta in present for table in meta_tables(meta)], fmt)
