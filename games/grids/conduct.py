"""How other code bases than Melting Pot have players move and shoot where they gather; see :mod:`.gathering`.

In all of them everybody moves at once, so that cells are claimed (:func:`~.gathering.claimed`) and not taken in turn,
and nobody's beam has to cool.

* ``ssd``, the first published code (Vinitsky et al.): moves by where one looks; a beam of three lines, five cells long,
  costs who shoots 1 and who is hit 50, and sends nobody away.
* ``socialjax``: moves along rows and columns, wherever one looks. A beam covers four cells, whoever stands between.
  Near the edge it is what the published arrays make of it: beyond the first row or column it comes back from the other
  side, beyond the last it stays on that one, so that one may hit oneself. Who is hit stands where it was until the next
  step begins, and then on a cell of the starts; nobody is ever placed looking along the columns backwards.
* ``socialjax_v1.1.0``, before release 1.2.0: in harvest nobody can turn, as one's own body counts as in the way, nor
  step on a cell that another leaves; in clean-up two exchange cells, and one steps where another turns out to stay. Who
  comes back may stand on somebody, and of two on a cell the later seat is hit.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.grids import gathering
from shaping_bench.games.grids.board import place, unframed
from shaping_bench.games.grids.gathering import (
    BACKWARD,
    CLEAN,
    FORWARD,
    NOOP,
    STEP_LEFT,
    STEP_RIGHT,
    TURN_LEFT,
    TURN_RIGHT,
    ZAP,
    Bodies,
)

MELTING_POT, SOCIALJAX, SOCIALJAX_BEFORE, SSD = "melting_pot", "socialjax", "socialjax_v1.1.0", "ssd"

ACTIONS: Mapping[str, tuple[int, ...]] = {
    MELTING_POT: tuple(range(9)),
    SOCIALJAX: (TURN_LEFT, TURN_RIGHT, FORWARD, BACKWARD, STEP_RIGHT, STEP_LEFT, NOOP, ZAP, CLEAN),
    SSD: (STEP_LEFT, STEP_RIGHT, FORWARD, BACKWARD, NOOP, TURN_RIGHT, TURN_LEFT, ZAP, CLEAN),
}
"""What the actions of each code base are, in its order; SocialJax's moves are those of who looks along the columns."""
ACTIONS = {**ACTIONS, SOCIALJAX_BEFORE: ACTIONS[SOCIALJAX]}

RULES = tuple(ACTIONS)

LOOKS = (1, 0, 3)
"""Headings with which SocialJax places players."""

SHOT = ((1, 0), (2, 0), (1, 1), (1, -1))
"""Cells of SocialJax's beams as (ahead, to the right)."""

FINE, FEE, LENGTH = 50.0, 1.0, 5
"""What being hit, and shooting, costs by the first code, and cells of a line of its beams."""


def of_socialjax(rules: str) -> bool:
    return rules in (SOCIALJAX, SOCIALJAX_BEFORE)


def meant(rules: str, actions: Array) -> Array:
    """Actions in the order of :mod:`.gathering`, ``(n,)``."""
    return actions.astype(jnp.int32) if rules == MELTING_POT else jnp.asarray(ACTIONS[rules], jnp.int32)[actions]


def ordered(rules: str, logits: Array) -> Array:
    """Logits of the actions in the order of a code base."""
    return logits if rules == MELTING_POT else logits[jnp.asarray(ACTIONS[rules][: len(logits)])]


def reward_bounds(rules: str, n: int) -> tuple[float, float]:
    """Of n players who eat at most one apple a step."""
    return (-FEE - FINE * (n - 1) if rules == SSD else 0.0), 1.0


def fined(eats: Array, shoots: Array, hits: Array) -> Array:
    """Rewards by the first code."""
    rewards = eats.astype(jnp.result_type(float)) - FEE * shoots - FINE * hits.sum(axis=0)
    return rewards.astype(jnp.result_type(float))


def started(key: Array, cells: np.ndarray, n: int, rules: str) -> Bodies:
    """Players on different ones of the cells, looking anywhere that a code base has them look."""
    bodies = gathering.started(key, cells, n)
    if not of_socialjax(rules):
        return bodies
    looks = jax.random.choice(jax.random.fold_in(key, 0), jnp.asarray(LOOKS, jnp.int32), (n,))
    return bodies._replace(heading=looks)


def ways(rules: str, bodies: Bodies, player: int, columns: int) -> list[tuple[Array, Array]]:
    """As :func:`~.gathering.ways`, by the moves of a code base."""
    if of_socialjax(rules):
        bodies = bodies._replace(heading=jnp.zeros_like(bodies.heading))
    return gathering.ways(bodies, player, columns)


def shot(bodies: Bodies, size: tuple[int, int]) -> tuple[Array, Array]:
    """Cells of everybody's beam by SocialJax's rules, ``(n, 4)``: those that it hits, and those on which it is seen,
    -1 off the board."""
    rows, columns = size
    row, column = (x[:, None] for x in place(bodies.cell, columns))
    ahead, right = np.array(SHOT).T
    r, c = unframed(row, column, bodies.heading[:, None], ahead, right)
    off = (r < 0) | (r >= rows) | (c < 0) | (c >= columns)
    # What lies to either side and off the board is replaced by the cell ahead.
    aside = jnp.asarray(right != 0) & off
    r, c = jnp.where(aside, r[:, :1], r), jnp.where(aside, c[:, :1], c)
    back, along = jnp.where(r < 0, r + rows, r), jnp.where(c < 0, c + columns, c)
    hits = jnp.minimum(back, rows - 1) * columns + jnp.minimum(along, columns - 1)
    return hits, jnp.where((back < rows) & (along < columns), hits, -1)


def struck_at(bodies: Bodies, shoots: Array, cells: Array) -> Array:
    """Who is hit by whom where beams hit these cells ``(n, k)``, ``(n, n)`` by shooter."""
    below = jnp.triu(bodies.cell[:, None] == bodies.cell, 1).any(axis=1)
    return (cells[:, :, None] == jnp.where(below, -2, bodies.cell)).any(axis=1) & shoots[:, None]


def placed(bodies: Bodies, words: Array, starts: np.ndarray, rules: str) -> Bodies:
    """Bodies with those who were hit a step ago on cells of the starts."""
    due = bodies.away == 1
    others = -1 if rules == SOCIALJAX_BEFORE else bodies.cell
    apart = bodies._replace(cell=jnp.where(due, -1, others))
    found = gathering.returned(apart, words, starts, LOOKS)
    moves = due & (found.cell >= 0)
    return bodies._replace(
        cell=jnp.where(moves, found.cell, bodies.cell),
        heading=jnp.where(moves, found.heading, bodies.heading),
        away=jnp.where(moves, 0, bodies.away),
    )


def moved(
    bodies: Bodies, actions: Array, words: Array, size: tuple[int, int], rules: str, barred: Array | None = None
) -> Bodies:
    """Bodies after turns and moves that happen at once; ``barred`` are cells that nobody can enter, ``(k,)``, in games
    that look at what is in the way."""
    goes, target = gathering.aims(bodies.cell, 0 if of_socialjax(rules) else bodies.heading, actions, size)
    heading = gathering.turned(bodies.heading, actions)
    if barred is not None:
        goes &= ~(target[:, None] == barred).any(axis=1)
        if rules == SOCIALJAX_BEFORE:
            goes &= ~(target[:, None] == bodies.cell).any(axis=1)
            heading = bodies.heading
    careless = barred is None and rules == SOCIALJAX_BEFORE
    return bodies._replace(cell=gathering.claimed(bodies.cell, goes, target, words, careless), heading=heading)
