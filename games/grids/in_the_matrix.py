"""In the matrix: two players on a board collect what they will play a matrix game with, then meet.

Coins of two kinds lie on the board: ``C`` stands for the first action of a 2x2 game, ``D`` for the second.
What a player holds is its mixed strategy. Whoever has the other in its beam and presses `interact` makes
both play, if both hold something: player i is paid ``p1' A_i p2``, with ``p`` the held kinds as shares.
Both are then frozen for some steps, seeing each other's inventories, and start anew with all coins back.

The rules are those of pax's ``InTheMatrix``, which is JaxMARL's ``storm_2p`` (Khan et al., AAMAS 2024), down to
what happens to a coin on which a player starts.

The board is small, so that what follows from where somebody stands and looks is tables over 256 *poses*,
``(row * 8 + column) * 4 + heading``. A state is a tuple of scalars and a plane of what a player sees one word
with a bit per cell: under ``vmap`` these are contiguous vectors, and only the last operation writes planes.
"""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.games.anchors import Anchors, of_scripts
from shaping_bench.games.base import Count, PlayedGame, share
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids.board import Board, Glyph, Piece, below, framed, place, stepped, unframed, window_from

TURN_RIGHT, TURN_LEFT, FORWARD, INTERACT, STAY = range(5)

SIZE, VIEW = 8, 5
"""Rows and columns of the board, and of what a player sees of it: itself in the middle of the near edge."""

COINS = ((1, 1), (1, 2), (1, 5), (1, 6), (2, 1), (2, 6), (5, 1), (5, 6), (6, 1), (6, 2), (6, 5), (6, 6))
FIXED_KINDS = "DCCCDDCCDDDC"
"""Of the coins, where kinds are fixed."""

SPAWNS = (
    *((0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (5, 0), (6, 0), (7, 0), (7, 1)),
    *((0, 6), (0, 7), (1, 7), (2, 7), (5, 6), (5, 7), (6, 7), (7, 6), (7, 7)),
)
"""Where the first player may start; the second starts at the cell opposite. Two of them are coins' cells."""

BEAM = ((1, 0), (2, 0), (1, 1), (1, -1))
"""Cells that a beam covers, as (ahead, to the right)."""

MATRICES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ipd": ((3.0, 0.0, 5.0, 1.0), (3.0, 5.0, 0.0, 1.0)),
    "imp": ((1.0, -1.0, -1.0, 1.0), (-1.0, 1.0, 1.0, -1.0)),
    "chicken": ((3.0, 2.0, 5.0, 0.0), (3.0, 5.0, 2.0, 0.0)),
    "stag-hunt": ((4.0, 0.0, 2.0, 2.0), (4.0, 2.0, 0.0, 2.0)),
    "bos": ((3.0, 0.0, 0.0, 2.0), (2.0, 0.0, 0.0, 3.0)),
}
"""What each player is paid for CC, CD, DC and DD, the first player's action first. ``ipd`` and ``imp`` are pax's;
the others Melting Pot's of these names."""

ANCHORS: dict[str, tuple[float, float, float]] = {
    "ipd": (0.0055, 0.2102, 0.0542),
    "chicken": (0.0064, 0.2342, 0.0468),
    "stag-hunt": (0.0045, 0.2800, 0.0338),
}
"""By matrix, of the default rules: return per step of random play, of the scripts that earn most together, and of
the script that earns most against random play; means of 4096 episodes, standard errors below 0.0006."""

Pair = tuple[Array, Array]


_PLANES, _NUMBERS, _BITS = 10, 6, VIEW + 1
"""Of an observation: planes with a bit per cell, constant ones, and bits per row of the word of either. The last bit of
a row says that the others are the number that stands in all its cells."""


class Player(NamedTuple):
    """The pose of a player, and how many coins of each kind it holds."""

    pose: Array
    held: Pair

    @property
    def cell(self) -> Array:
        return self.pose >> 2

    @property
    def heading(self) -> Array:
        return self.pose & 3


class State(NamedTuple):
    """State of a game, scalars throughout.

    Attributes:
      time: steps since ``reset``.
      players: both.
      lying: coins on the board, bit k the k-th of ``COINS``.
      kinds: coins that are ``C``, in the same bits.
      freeze: steps for which both are frozen; -1 while they are not.
      beaming: whether each player's beam is on the board.
    """

    time: Array
    players: tuple[Player, Player]
    lying: Array
    kinds: Array
    freeze: Array
    beaming: Pair


@pytree_dataclass
class InTheMatrix(PlayedGame):
    """A matrix game whose actions are what two players have collected on a board."""

    family: ClassVar[str | None] = "in-the-matrix"
    counts: ClassVar[tuple[Count, ...]] = (
        Count("interactions", "rounds of the matrix game, per step", "rounds per step"),
        Count("cooperated", "share of C in what is held at rounds of the matrix game, summed, per step", "per step"),
        Count("defected", "share of D in what is held at rounds of the matrix game, summed, per step", "per step"),
        share(
            "cooperation_at_rounds",
            "cooperated",
            "defected",
            source="Khan et al., AAMAS 2024 (ratio of coins at interactions)",
        ),
    )

    matrix: str = field("ipd", "whose payoffs to play for, by name", choices=tuple(MATRICES), static=True)
    payoffs: Any = field(None, "((CC,CD,DC,DD),(CC,CD,DC,DD)) instead of a named matrix's", static=True)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0)
    horizon: int = field(152, "steps of an episode; the last is not paid", low=2, static=True)
    episodes: int = field(1, "episodes before a game is done, each from a new board", low=1, static=True)
    freeze: int = field(5, "steps for which both stay where they are after they have met", low=1, static=True)
    fixed_coins: bool = field(True, "kinds of the coins as printed in the notes, or drawn per episode", static=True)

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With payoffs as tuples of numbers, where they are given."""
        payoffs = values.get("payoffs")
        if payoffs is None:
            return dict(values)
        try:
            table = tuple(tuple(float(x) for x in row) for row in payoffs)
        except (TypeError, ValueError):
            table = ()
        if [len(row) for row in table] != [4, 4]:
            raise ValueError(f"payoffs is {payoffs!r}; allowed: two rows of four numbers, for CC, CD, DC and DD")
        return {**values, "payoffs": table}

    @property
    def rewards(self) -> tuple[tuple[float, ...], ...]:
        """The payoffs in force."""
        return MATRICES[self.matrix] if self.payoffs is None else self.payoffs

    @property
    def n_players(self) -> int:
        return 2

    @property
    def n_actions(self) -> int:
        return 5

    @property
    def seats(self) -> tuple[str, ...]:
        return ("red", "blue")

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Ten planes of what is in sight, and six constant ones."""
        return (_PLANES + _NUMBERS, VIEW, VIEW)

    @property
    def board_planes(self) -> int:
        return _PLANES

    @property
    def num_steps(self) -> int:
        return self.horizon * self.episodes

    @property
    def symmetric(self) -> bool:
        first, (cc, cd, dc, dd) = self.rewards
        return first == (cc, dc, cd, dd)

    @property
    def zero_sum(self) -> bool:
        return all(a + b == 0.0 for a, b in zip(*self.rewards, strict=True))

    @property
    def reward_bounds(self) -> tuple[float, float]:
        everything = [0.0, *self.rewards[0], *self.rewards[1]]
        return min(everything), max(everything)

    def anchors(self) -> Anchors | None:
        """Measured for the named matrices and the default rules; None for others."""
        measured = ANCHORS.get(self.matrix)
        if measured is None or self.payoffs is not None or (self.horizon, self.freeze) != (152, 5):
            return None
        low, high = self.reward_bounds
        return of_scripts(measured, smallest=low, largest=high)

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(2, *observation_shape)`` and state."""
        state = self._start(jax.random.bits(key, (self._words,), jnp.uint32))
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """One simultaneous action of both.

        Args:
          key: chance of this step: who gets a cell that both step on, and where they start anew.
          state: from ``reset`` or ``step``.
          actions: ``(2,)``: turn right, turn left, forward, interact, stay.

        Returns:
          Observations, state, rewards ``(2,)``, done, and counts.
        """
        bits = jax.random.bits(key, (1 + (self._words if self.episodes > 1 else 0),), jnp.uint32)
        first_wins, chance = below(2, bits[0])
        acts = [jnp.where(state.freeze > 0, STAY, actions[i].astype(jnp.int32)) for i in (0, 1)]
        poses = self._moved([player.pose for player in state.players], acts, first_wins == 1)

        there = [_at(_COIN, pose >> 2) for pose in poses]
        left = [_at(_COIN, player.cell) for player in state.players]
        first, second = (
            _collected(player, pose, here & state.lying, state.kinds)
            for player, pose, here in zip(state.players, poses, there, strict=True)
        )
        players = first, second
        # A coin under a player that walks off it is gone, too.
        lying = state.lying & ~(there[0] | there[1] | left[0] | left[1])

        presses = (acts[0] == INTERACT, acts[1] == INTERACT)
        covered = [_in_beam(poses[i], poses[1 - i]) for i in (0, 1)]
        met = (presses[0] & covered[0]) | (presses[1] & covered[1])
        shares, held = zip(*(_shares(player) for player in players), strict=True)
        met &= held[0] & held[1]
        paid = [self._payoff(i, shares) for i in (0, 1)]

        freeze = jnp.where(met, self.freeze, jnp.where(state.freeze > 0, state.freeze - 1, state.freeze))
        time = state.time + 1
        played = State(time=time, players=players, lying=lying, kinds=state.kinds, freeze=freeze, beaming=presses)
        fresh = _placed(chance, time, state.kinds)
        fresh = fresh._replace(
            lying=fresh.lying & ~(_at(_COIN, fresh.players[0].cell) | _at(_COIN, fresh.players[1].cell))
        )
        after = _where(freeze == 0, fresh, played)
        ended = time % self.horizon == 0
        if self.episodes > 1:
            after = _where(ended, self._start(bits[1:])._replace(time=time), after)

        dtype = jnp.result_type(float)
        rewards = jnp.stack([jnp.where(met & ~ended, r, 0.0) for r in paid]).astype(dtype)
        rounds = met.astype(dtype)
        info = {
            "interactions": jnp.stack([rounds, rounds]),
            "cooperated": jnp.stack([rounds * p[0] for p in shares]),
            "defected": jnp.stack([rounds * p[1] for p in shares]),
        }
        return self.observe(after), after, rewards, time >= self.num_steps, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, whole numbers; by default what both see, ``(2, ...)``.

        Planes: me, the other, coins C, coins D, outside, beams, and on the other's cell where it looks: as I do,
        to my right, towards me, to my left. Constant ones: my C, my D, whether I and whether the other holds
        something, and the other's C and D, which show only while both are frozen.
        """
        seats = (0, 1) if player is None else (player,)
        rows = jnp.stack([x for i in seats for x in self._seen(state, i)]).reshape(len(seats), -1, 1)
        rows = rows >> jnp.arange(0, _BITS * VIEW, _BITS, dtype=jnp.uint32) & ((1 << _BITS) - 1)
        planes = _at(_ROWS, rows.astype(jnp.int32))
        return planes if player is None else planes[0]

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-c`` and ``all-d`` collect one coin of their kind, the nearest, by a way that leads over none of the
        other kind where kinds are fixed, and then go after the other player until it is in their beam."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        own, other = state.players[player], state.players[1 - player]
        kind = 0 if name == "all-c" else 1
        wanted = state.lying & (state.kinds if kind == 0 else ~state.kinds)
        to_coins, to_player = _ways("CD"[kind] if self.fixed_coins else "")
        armed, hits = own.held[kind] > 0, _in_beam(own.pose, other.pose)
        costs = []
        for action in range(self.n_actions):
            choice = (own.pose * self.n_actions + action) * SIZE**2
            coins = [
                jnp.where((wanted >> k) & 1 == 1, _at(to_coins, choice + SIZE * row + column), _FAR)
                for k, (row, column) in enumerate(COINS)
            ]
            chase = jnp.where(hits, jnp.int32(action != INTERACT), _at(to_player, choice + other.cell))
            costs.append(jnp.where(armed, chase, functools.reduce(jnp.minimum, coins)))
        cost = jnp.stack(costs)
        return memory, jnp.where(cost == jnp.min(cost), 0.0, -jnp.inf)

    legend: ClassVar[Mapping[str, Glyph]] = {
        "red": Glyph("disc", "red", player=0),
        "blue": Glyph("square", "blue", player=1),
        "C": Glyph("ring", "coins C", tone=2),
        "D": Glyph("cross", "coins D", tone=3),
        "*": Glyph("beam", "beams", tone=4),
    }
    board_note: ClassVar[str] = (
        "What a player has collected is its strategy: when one has the other in its beam, both are paid as in the "
        "matrix game, each kind of coin in the proportion in which it is held."
    )

    def board(self, state: State) -> Board:
        """Coins, players over them unless they have just started there, beams, windows and inventories."""
        cells = [["."] * SIZE for _ in range(SIZE)]
        pieces = []
        for k, cell in enumerate(COINS):
            if int(state.lying) >> k & 1:
                pieces.append(Piece("C" if int(state.kinds) >> k & 1 else "D", *cell))
        occupied = {divmod(int(player.cell), SIZE) for player in state.players}
        occupied |= {(piece.row, piece.column) for piece in pieces}
        windows = []
        for i, player in enumerate(state.players):
            heading = int(player.heading)
            row, column = divmod(int(player.cell), SIZE)
            pieces.append(Piece(self.seats[i], row, column, facing="ESWN"[heading]))
            for ahead, right in BEAM if bool(state.beaming[i]) else ():
                cell = unframed(row, column, heading, ahead, right)
                if all(0 <= x < SIZE for x in cell) and cell not in occupied:
                    cells[cell[0]][cell[1]] = "*"
            sides = (-(VIEW // 2), VIEW // 2)
            windows.append(window_from(i, row, column, heading, ahead=(0, VIEW - 1), right=sides))
        return Board(
            rows=SIZE,
            columns=SIZE,
            pieces=pieces,
            cells=["".join(row) for row in cells],
            windows=windows,
            inventories=[{"C": float(p.held[0]), "D": float(p.held[1])} for p in state.players],
        )

    # --- parts of a step ------------------------------------------------------------------

    @property
    def _words(self) -> int:
        """Random words of a hard reset."""
        return 1 if self.fixed_coins else 1 + len(COINS)

    def _start(self, bits: Array) -> State:
        """The start of an episode: coins may lie under players, who are hidden by them."""
        if self.fixed_coins:
            kinds = jnp.int32(sum((kind == "C") << k for k, kind in enumerate(FIXED_KINDS)))
        else:
            # The half of the coins with the smallest words. The number of a coin breaks ties.
            words = [bits[1 + k] & ~jnp.uint32(15) | k for k in range(len(COINS))]
            ranks = [sum((other < word).astype(jnp.int32) for other in words) for word in words]
            kinds = sum(((rank < len(COINS) // 2).astype(jnp.int32) << k for k, rank in enumerate(ranks)), jnp.int32(0))
        return _placed(bits[0], jnp.int32(0), kinds)

    def _moved(self, before: Sequence[Array], acts: Sequence[Array], first_wins: Array) -> tuple[Array, Array]:
        """Both poses after turns and steps. Who stands on a cell keeps it; of two that step on one, one goes back."""
        after = [_at(_MOVED, pose * self.n_actions + act) for pose, act in zip(before, acts, strict=True)]
        left = [(a ^ b) >> 2 != 0 for a, b in zip(before, after, strict=True)]
        clash = (after[0] ^ after[1]) >> 2 == 0
        back = (clash & left[0] & ~(left[1] & first_wins), clash & left[1] & ~(left[0] & ~first_wins))
        first, second = (jnp.where(b, was, now) for was, now, b in zip(before, after, back, strict=True))
        return first, second

    def _payoff(self, player: int, shares: Any) -> Array:
        cc, cd, dc, dd = self.rewards[player]
        (a, b), (c, d) = shares
        return a * (cc * c + cd * d) + b * (dc * c + dd * d)

    def _seen(self, state: State, seat: int) -> list[Array]:
        """A word per plane, and what a plane's bits count for."""
        own, other = state.players[seat], state.players[1 - seat]
        nothing = jnp.uint32(0)
        kinds = [_coins_seen(own.pose, state.lying & x) for x in (state.kinds, ~state.kinds)]
        coins = kinds[0] | kinds[1]
        me = jnp.uint32(_ME) & ~coins
        they = _at(_SEEN, own.pose * SIZE**2 + other.cell) & ~coins
        outside = _at(_OUTSIDE, own.pose)
        theirs = _their_beam(own, other)
        beams = jnp.where(state.beaming[seat], jnp.uint32(_MY_BEAM), nothing)
        beams |= jnp.where(state.beaming[1 - seat], theirs, nothing)
        beams &= ~(coins | me | they | outside)
        turned = (other.heading - own.heading) & 3
        looks = [jnp.where(turned == k, they, nothing) for k in range(4)]

        shown = (state.freeze >= 0).astype(jnp.int32)
        ready = [(player.held[0] + player.held[1] > 0).astype(jnp.int32) for player in (own, other)]
        numbers = [*own.held, *ready, *(shown * x for x in other.held)]
        constant = [((1 << VIEW) + x).astype(jnp.uint32) * jnp.uint32(_EVERY_ROW) for x in numbers]
        return [me, they, *kinds, outside, beams, *looks, *constant]


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _collected(player: Player, pose: Array, found: Array, kinds: Array) -> Player:
    c, d = player.held
    return Player(pose, (c + ((found & kinds) > 0).astype(c.dtype), d + ((found & ~kinds) > 0).astype(d.dtype)))


def _shares(player: Player) -> tuple[Pair, Array]:
    """Shares of C and D in what a player holds, and whether it holds anything."""
    c, d = player.held
    total = c + d
    share = 1.0 / jnp.maximum(total, 1).astype(jnp.result_type(float))
    return (c * share, d * share), total > 0


def _placed(bits: Array, time: Array, kinds: Array) -> State:
    """Both at opposite cells with nothing in hand, all coins on the board."""
    spawn, bits = below(len(SPAWNS), bits)
    # The published code draws headings below the last one's number: nobody starts looking up.
    first, bits = below(3, bits)
    second, _ = below(3, bits)
    cell = _at(_SPAWN, spawn)
    nothing = jnp.int32(0)
    players = (
        Player(4 * cell + first, (nothing, nothing)),
        Player(4 * (SIZE**2 - 1 - cell) + second, (nothing, nothing)),
    )
    nobody = jnp.zeros((), bool)
    return State(
        time=time,
        players=players,
        lying=jnp.int32((1 << len(COINS)) - 1),
        kinds=kinds,
        freeze=jnp.int32(-1),
        beaming=(nobody, nobody),
    )


# --- tables over poses --------------------------------------------------------------------


def _word(ahead: Any, right: Any) -> Any:
    """The word of a cell of the window; zero if it is out of sight."""
    inside = (ahead >= 0) & (ahead < VIEW) & (abs(right) <= VIEW // 2)
    return np.where(inside, 1 << np.where(inside, _BITS * (right + VIEW // 2) + ahead, 0), 0)


def _union(words: Any) -> Any:
    return functools.reduce(operator.or_, words, 0)


def _on_board(row: Any, column: Any) -> Any:
    return (row >= 0) & (row < SIZE) & (column >= 0) & (column < SIZE)


_REACH, _HALF = 2, len(COINS) // 2
_WIDTH = VIEW + 2 * _REACH
_ME, _MY_BEAM = int(_word(0, 0)), int(_union(_word(*x) for x in BEAM))
_EVERY_ROW = _union(1 << _BITS * row for row in range(VIEW))


def _moves() -> np.ndarray:
    """The next pose by pose and action."""
    row, column, heading, action = np.indices((SIZE, SIZE, 4, 5))
    turned = (heading + (action == TURN_RIGHT) - (action == TURN_LEFT)) % 4
    there = stepped(row, column, heading, action == FORWARD)
    row, column = (np.where(_on_board(*there), a, b) for a, b in zip(there, (row, column), strict=True))
    return (4 * (SIZE * row + column) + turned).astype(np.int32).ravel()


def _by_pose_and_cell(entry: Any, dtype: Any) -> np.ndarray:
    """``entry`` of how far ahead and to the right a cell is."""
    row, column, heading, other_row, other_column = np.indices((SIZE, SIZE, 4, SIZE, SIZE))
    return np.asarray(entry(*framed(row, column, heading, other_row, other_column)), dtype).ravel()


def _coin_words(half: int) -> np.ndarray:
    """Coins in sight, by pose and which of a half of all coins lie on the board."""
    lying = np.arange(1 << _HALF)
    seen = _SEEN.reshape(-1, 1, SIZE, SIZE)
    coins = enumerate(COINS[half * _HALF : (half + 1) * _HALF])
    return np.uint32(_union(np.where(lying >> k & 1, seen[..., row, column], 0) for k, (row, column) in coins)).ravel()


def _outside() -> np.ndarray:
    """What is in sight and off the board, by pose."""
    row, column, heading = np.indices((SIZE, SIZE, 4))
    cells = itertools.product(range(VIEW), range(-(VIEW // 2), VIEW // 2 + 1))
    return np.uint32(
        _union(np.where(_on_board(*unframed(row, column, heading, *x)), 0, _word(*x)) for x in cells)
    ).ravel()


def _beams() -> np.ndarray:
    """The other's beam by where the other is, from ``_REACH`` cells before what I see on, and its heading to mine."""
    ahead, right, turned = np.indices((_WIDTH, _WIDTH, 4))
    # On a board on which I stand at row and column zero and look along the columns.
    row, column = right - VIEW // 2 - _REACH, ahead - _REACH
    return np.uint32(_union(_word(*unframed(row, column, turned, *x)[::-1]) for x in BEAM)).ravel()


def _rows() -> np.ndarray:
    """The cells of a row by its bits."""
    bits, column = np.indices((2 << VIEW, VIEW))
    return np.where(bits < 1 << VIEW, bits >> column & 1, bits - (1 << VIEW)).astype(np.int8)


_MOVED = _moves()
_COIN = np.zeros(SIZE**2, np.int32)
_COIN[[SIZE * row + column for row, column in COINS]] = 1 << np.arange(len(COINS))
_SPAWN = np.array([SIZE * row + column for row, column in SPAWNS], np.int32)
_HIT = _by_pose_and_cell(lambda ahead, right: sum((ahead == a) & (right == r) for a, r in BEAM), bool)
_SEEN = _by_pose_and_cell(_word, np.uint32)
_COINS_SEEN = _coin_words(0), _coin_words(1)
_OUTSIDE, _BEAM_SEEN, _ROWS = _outside(), _beams(), _rows()

_FAR = 99
"""More steps than any way takes; none takes more than four times the length of the board."""


@functools.cache
def _ways(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps to a cell, and until it is in one's beam, by pose, the next action, and cell. Coins of the other kind are
    walked around."""
    moved = _MOVED.reshape(-1, 5)
    steps = np.ones(moved.shape, np.int32)
    for (row, column), own in zip(COINS, FIXED_KINDS, strict=True):
        if kind and own != kind:
            steps[(moved >> 2 == SIZE * row + column) & (moved >> 2 != np.arange(len(moved))[:, None] >> 2)] = _FAR
    there = np.arange(len(moved))[:, None] >> 2 == np.arange(SIZE**2)
    found = []
    for goal in (there, _HIT.reshape(there.shape)):
        way = np.where(goal, 0, _FAR)
        for _ in range(4 * SIZE):
            choices = steps[..., None] + way[moved]
            way = np.minimum(way, choices.min(axis=1))
        found.append(choices.astype(np.int32).ravel())
    return found[0], found[1]


def _at(table: np.ndarray, index: Array) -> Array:
    return jnp.asarray(table).at[index].get(mode="promise_in_bounds")


def _coins_seen(pose: Array, coins: Array) -> Array:
    low, high = coins & ((1 << _HALF) - 1), (coins >> _HALF) & ((1 << _HALF) - 1)
    return _at(_COINS_SEEN[0], (pose << _HALF) + low) | _at(_COINS_SEEN[1], (pose << _HALF) + high)


def _in_beam(pose: Array, other: Array) -> Array:
    return _at(_HIT, pose * SIZE**2 + (other >> 2))


def _their_beam(own: Player, other: Player) -> Array:
    ahead, right = framed(*place(own.cell, SIZE), own.heading, *place(other.cell, SIZE))
    ahead, right = ahead + _REACH, right + VIEW // 2 + _REACH
    near = (ahead >= 0) & (ahead < _WIDTH) & (right >= 0) & (right < _WIDTH)
    turned = (other.heading - own.heading) & 3
    index = jnp.where(near, (ahead * _WIDTH + right) * 4 + turned, 0)
    return jnp.where(near, _at(_BEAM_SEEN, index), jnp.uint32(0))
