"""CleanUp-lite: a clean-up of twenty cells, for agents who are to learn how others learn.

The left column of the board is an orchard, the right one a river. Dirt comes into the river by itself, and each dirty
cell makes it less likely that an apple grows; none does from three on. An apple pays whoever stands on it; dirt goes
where somebody stands on it, which pays nobody. Who is zapped does nothing for five steps.

Source: Meulemans et al., ICLR 2025 (arXiv 2410.18636), appendix B.1.2; no code was published. What it leaves open is
decided here, by a field where there is one:

* which side is the longer one: ``rows``, ``columns``; five rows, as one writes the shape of an array;
* what two cells of distance are: ``metric``; steps that one would have to walk;
* whether two may stand on one cell: ``apart``; they may. Of two on one apple, or dirt, chance chooses who takes it;
* dirt and apples come to any of their cells, under players too, who take them in the same step;
* everybody zaps at once, so that two may freeze each other, and moves at once;
* who is frozen neither takes, zaps nor moves: from the move of that step on, and in the five steps that follow;
* who would leave the board stays where it is.
"""

import functools
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors, of_scripts
from shaping_bench.games.base import Count
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids import gathering
from shaping_bench.games.grids.board import NOTHING, Board, Glyph, Piece, below, fraction, one_of, place
from shaping_bench.games.grids.cleanup import Cleanup
from shaping_bench.games.grids.gathering import Bodies, GatheringGame

RIGHT, LEFT, UP, DOWN, ZAP, NOOP = range(6)
"""Actions, in the order of the paper."""

MEANT = (
    gathering.FORWARD,
    gathering.BACKWARD,
    gathering.STEP_LEFT,
    gathering.STEP_RIGHT,
    gathering.ZAP,
    gathering.NOOP,
)
"""The same as those of somebody who looks along the columns."""

METRICS = ("manhattan", "chebyshev")

TURN = 32
"""Steps for which ``all-c`` cleans, and then eats: half of an episode of the paper."""

ANCHORS: dict[tuple[int, int], tuple[float, float, float]] = {
    (5, 4): (0.0066, 0.3236, 0.0437),
    (4, 5): (0.0094, 0.3337, 0.0478),
}
"""By rows and columns, of the default rules, per step and player: return of random play; of the best joint plan,
exactly, by dynamic programming over all states (no zap gains anything for both together); and of ``all-c``, the script
that earns most among random others, mean of both seats. Those of play are means of 32 768 episodes, standard errors
0.0003."""


class State(NamedTuple):
    """State of a game.

    Attributes:
      time: steps since ``reset``.
      cell: of each player, ``(2,)``.
      frozen: steps for which each does nothing, ``(2,)``.
      apples: by row, in the left column.
      dirt: by row, in the right column.
    """

    time: Array
    cell: Array
    frozen: Array
    apples: Array
    dirt: Array


class _Map(NamedTuple):
    size: tuple[int, int]
    orchard: np.ndarray
    river: np.ndarray


@functools.cache
def _map(rows: int, columns: int) -> _Map:
    first = columns * np.arange(rows, dtype=np.int32)
    return _Map(size=(rows, columns), orchard=first, river=first + np.int32(columns - 1))


@pytree_dataclass
class CleanupLite(GatheringGame):
    """Apples for two, and a river that one of them has to clean."""

    counts: ClassVar[tuple[Count, ...]] = Cleanup.counts

    rows: int = field(5, "cells of the orchard, and of the river", low=2, high=16, static=True)
    columns: int = field(4, "cells from the one to the other", low=2, high=16, static=True)
    gamma: float = field(1.0, "discount", low=0.0, high=1.0)
    horizon: int = field(64, "steps of an episode", low=1, static=True)
    initial_dirt: int = field(3, "cells of the river that are dirty at the start", low=0, high=16, static=True)
    dirt_rate: float = field(0.35, "probability per step that one more cell becomes dirty", low=0.0, high=1.0)
    depletion: float = field(3.0, "cells of dirt from which on no apple grows", low=0.0, exclusive=True)
    zap_range: int = field(2, "how far a zap reaches, in cells", low=0, static=True)
    metric: str = field(
        "manhattan", "distance of cells: steps to walk, or the longer of both ways", choices=METRICS, static=True
    )
    zap_rate: float = field(0.9, "probability that a zap in reach hits", low=0.0, high=1.0)
    freeze: int = field(5, "steps for which who is hit does nothing", low=1, static=True)
    apart: bool = field(
        False,
        "whether no two may stand on one cell: of two who step on it chance lets one, and cells are not exchanged",
        static=True,
    )

    observation: str = field(
        "flat", "what is seen: one-hots in a row, as in the paper, or planes", choices=("flat", "planes"), static=True
    )

    num_players: ClassVar[int] = 2  # type: ignore[misc]
    version: ClassVar[int] = 1  # type: ignore[misc]

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With no more dirt than river."""
        dirt, rows = values["initial_dirt"], values["rows"]
        if dirt > rows:
            raise ValueError(f"initial_dirt is {dirt}; allowed: at most the {rows} cells of the river")
        return dict(values)

    @property
    def n_actions(self) -> int:
        return 6

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """My cell and the other's, what lies on each cell, who is frozen; see :meth:`observe`."""
        return (6, self.rows, self.columns) if self.observation == "planes" else (5 * self.rows * self.columns + 2,)

    @property
    def board_planes(self) -> int:
        """Where we stand, apples, dirt."""
        return 4

    @property
    def symmetric(self) -> bool:
        return True

    def anchors(self) -> Anchors | None:
        """Of the paper's rules on five rows or on four; None for others."""
        measured = ANCHORS.get((self.rows, self.columns))
        published = type(self)(rows=self.rows, columns=self.columns, gamma=self.gamma, observation=self.observation)
        if measured is None or self != published:
            return None
        return of_scripts(
            measured,
            smallest=0.0,
            largest=1.0,
            source="scripted policies, measured once; the optimum is exact, of the best joint plan",
        )

    @property
    def _map(self) -> _Map:
        return _map(self.rows, self.columns)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(2, *observation_shape)`` and state: no apples, some dirt, players anywhere."""
        cells, rows = self.rows * self.columns, self.rows
        words = jax.random.bits(key, (2 + rows,), jnp.uint32)
        first, _ = below(cells, words[0])
        second, _ = below(cells - self.apart, words[1])
        if self.apart:
            second += second >= first
        dirt = jnp.zeros(rows, bool)
        for _ in range(self.initial_dirt):
            dirt |= one_of(~dirt, words[2:])
        state = State(
            time=jnp.int32(0),
            cell=jnp.stack([first, second]),
            frozen=jnp.zeros(2, jnp.int32),
            apples=jnp.zeros(rows, bool),
            dirt=dirt,
        )
        return self.observe(state), state

    def growth(self, dirt: Array) -> Array:
        """Probability per step that an apple grows, if there is a free cell for it."""
        return 1.0 - jnp.minimum(1.0, dirt.sum(dtype=jnp.int32).astype(jnp.float32) / self.depletion)

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """Dirt comes, an apple grows, who is not frozen eats and cleans where it stands, then zaps, then moves.

        Args:
          key: chance of this step.
          state: from ``reset`` or ``step``.
          actions: ``(2,)``: right, left, up, down, zap, nothing.

        Returns:
          Observations, state, rewards ``(2,)``, done, and counts.
        """
        board, rows = self._map, self.rows
        words = jax.random.bits(key, (2 * rows + 7,), jnp.uint32)
        soils, ripens, (spill, ripe, lot), aims, order = jnp.split(words, np.cumsum([rows, rows, 3, 2]))
        dirt = state.dirt | (one_of(~state.dirt, soils) & (fraction(spill) < self.dirt_rate))
        apples = state.apples | (one_of(~state.apples, ripens) & (fraction(ripe) < self.growth(dirt)))

        awake, seat = state.frozen == 0, jnp.arange(2)
        contested = (state.cell[0] == state.cell[1]) & awake.all()
        takes = awake & (~contested | (seat == below(2, lot)[0]))
        eaten, cleaned = (
            (state.cell[:, None] == jnp.asarray(cells)) & lie & takes[:, None]
            for cells, lie in ((board.orchard, apples), (board.river, dirt))
        )
        apples, dirt = apples & ~eaten.any(axis=0), dirt & ~cleaned.any(axis=0)

        meant = jnp.asarray(MEANT, jnp.int32)[actions]
        shoots = (meant == gathering.ZAP) & awake & self._near(state.cell) & awake[::-1]
        hits = shoots & (fraction(aims) < self.zap_rate)
        frozen = jnp.where(hits[::-1], self.freeze, jnp.maximum(state.frozen - 1, 0))

        goes, target = gathering.aims(state.cell, 0, meant, board.size)
        goes &= awake & ~hits[::-1]
        cell = gathering.claimed(state.cell, goes, target, order) if self.apart else jnp.where(goes, target, state.cell)
        after = State(time=state.time + 1, cell=cell, frozen=frozen, apples=apples, dirt=dirt)

        dtype = jnp.result_type(float)
        rewards = eaten.any(axis=1).astype(dtype)
        info = {
            "apples": rewards,
            "cleaned": cleaned.any(axis=1).astype(dtype),
            "zaps": hits.astype(dtype),
            "dirt": jnp.full(2, dirt.mean(), dtype),
        }
        return self.observe(after), after, rewards, after.time >= self.horizon, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what both see, ``(2, *observation_shape)``.

        One after the other: my cell one-hot, the other's, of every cell one-hot whether nothing, an apple or dirt lies
        there, and whether I and whether the other am frozen. As planes: me, the other, apples, dirt, and the last two
        constant. For how many more steps is not shown.
        """
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(2)])
        board, every = self._map, jnp.arange(self.rows * self.columns, dtype=jnp.int32)
        apples, dirt = (
            ((every[:, None] == jnp.asarray(cells)) & lie).any(axis=1)
            for cells, lie in ((board.orchard, state.apples), (board.river, state.dirt))
        )
        seats = (player, 1 - player)
        here, frozen = [every == state.cell[i] for i in seats], [state.frozen[i] > 0 for i in seats]
        if self.observation == "planes":
            planes = [*here, apples, dirt, *(jnp.broadcast_to(x, every.shape) for x in frozen)]
            return jnp.stack(planes).reshape(self.observation_shape).astype(jnp.int8)
        objects = jnp.stack([~(apples | dirt), apples, dirt], axis=1).ravel()
        return jnp.concatenate([*here, objects, jnp.stack(frozen)]).astype(jnp.int8)

    def _near(self, cell: Array) -> Array:
        """Whether two cells ``(2,)`` are within reach of a zap."""
        apart = [jnp.abs(x[0] - x[1]) for x in place(cell, self.columns)]
        far = apart[0] + apart[1] if self.metric == "manhattan" else jnp.maximum(*apart)
        return far <= self.zap_range

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-d`` rides free: it walks to the nearest apple, and waits in the middle of the orchard while there is
        none. ``all-c`` takes turns of :data:`TURN` steps: at cleaning it walks to the nearest dirt, or waits in the
        middle of the river, and at eating it does as ``all-d``. Who is nearer to the river at the start cleans first;
        of two who are as near the lower one, and on one cell the first seat. Neither zaps. The memory is 1 while one
        cleans, and -1 while one eats."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        board = self._map
        if name == "all-c":
            row, column = place(state.cell, self.columns)
            near = (column * self.rows + row) * 2 - jnp.arange(2)  # ties by rows, then by seats
            begins = jnp.where(near[player] > near[1 - player], 1.0, -1.0)
            turn = jnp.where(state.time == 0, begins, -memory)
            memory = jnp.where(state.time % TURN == 0, turn, memory)
        cleans = memory > 0
        cells = jnp.where(cleans, board.river, board.orchard)
        lie = jnp.where(cleans, state.dirt, state.apples)
        wanted = jnp.where(lie.any(), lie, jnp.arange(self.rows) == self.rows // 2)
        nothing = jnp.zeros(2, jnp.int32)
        bodies = Bodies(cell=state.cell, heading=nothing, away=nothing, cooldown=nothing)
        cost = gathering.nearest(gathering.ways(bodies, player, self.columns), cells, wanted, self.columns)
        return memory, gathering.walking(cost, self.n_actions)[jnp.asarray((1, 2, 3, 4, 5, 0))]

    legend: ClassVar[Mapping[str, Glyph]] = {
        **{sign: Cleanup.legend[sign] for sign in "adw12"},
        "*": Glyph("beam", "frozen", tone=0),
    }
    board_note: ClassVar[str] = (
        "An apple pays whoever stands on it. The more dirt lies in the river, the fewer apples grow; nobody is paid "
        "for cleaning. Who is zapped does nothing for some steps."
    )

    def board(self, state: State) -> Board:
        """River, dirt, apples, where somebody is frozen, and players."""
        board, dirt = self._map, np.asarray(state.dirt)
        signs = np.full(self.rows * self.columns, NOTHING)
        cell, frozen = np.asarray(state.cell), np.asarray(state.frozen) > 0
        for sign, cells in (
            ("w", board.river),
            ("*", cell[frozen]),
            ("d", board.river[dirt]),
            ("a", board.orchard[np.asarray(state.apples)]),
        ):
            signs[cells] = sign
        return Board(
            rows=self.rows,
            columns=self.columns,
            pieces=[Piece(str(i + 1), *divmod(int(x), self.columns)) for i, x in enumerate(cell)],
            cells=["".join(line) for line in signs.reshape(self.rows, self.columns)],
        )
