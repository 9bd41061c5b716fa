"""The Coin Game: two players, red and blue, or three with green, collect coins of their colours on a torus.

All move at once. Whoever is on a coin after the move takes it and is paid, whatever its
colour; if it was another player's colour, that one pays a penalty. Taking only one's own
coins is best for all together; taking every coin is what a short-sighted player does.
Introduced by Lerer & Peysakhovich 2017 (arXiv 1707.01068).

Published implementations differ in the number of coins, who is paid when both arrive, where
coins and players appear, what is seen and how episodes are chained, so much that their
returns cannot be compared. Each is a *preset* here; every single rule can be changed too.

Observations are planes ``(n_players, channels, size, size)``, whatever the preset: flattening
them (LOLA-DiCE, POLA) or moving channels last (JaxMARL) is the policy's business.
"""

import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from shaping_bench.games.anchors import Anchors, of_scripts
from shaping_bench.games.base import Count, PlayedGame, share
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.grids.board import Board, Glyph, Piece, below, moved, place, wrapped

Each = tuple[Array, ...]
"""A scalar per player."""

RED, BLUE, GREEN = 0, 1, 2
COLOURS = ("red", "blue", "green")

MOVES: dict[str, tuple[tuple[int, int], ...]] = {
    "lola": ((0, 1), (0, -1), (1, 0), (-1, 0), (0, 0)),
    "loqa": ((0, -1), (0, 1), (-1, 0), (1, 0), (0, 0)),
}
"""Change of (row, column) by each action. The fifth, to stay, exists in five-action games."""


class Rules(NamedTuple):
    """The conventions in which published Coin Games differ; ``CoinGame`` says what each means."""

    num_players: int
    num_coins: int
    num_actions: int
    moves: str
    tie_rule: str
    penalties: str
    initial_players: str
    initial_coins: str
    respawn: str
    colours: str
    observation: str
    extra_planes: str
    boundary: str
    horizon: int
    episodes: int


_LOQA = Rules(
    num_players=2,
    num_coins=1,
    num_actions=4,
    moves="loqa",
    tie_rule="both",
    penalties="each",
    initial_players="any",
    initial_coins="free",
    respawn="free",
    colours="alternate",
    observation="relative",
    extra_planes="none",
    boundary="none",
    horizon=50,
    episodes=1,
)
_POLA = _LOQA._replace(moves="lola", observation="global")
_LOLA_DICE = _POLA._replace(initial_players="distinct", horizon=150)
_MFOS = _LOQA._replace(
    num_coins=2,
    moves="lola",
    initial_coins="any",
    respawn="any",
    extra_planes="rewards_done",
    boundary="reset_step",
    horizon=16,
    episodes=16,
)

PRESETS: dict[str, Rules] = {
    "loqa": _LOQA,
    "pola": _POLA,
    "lola_dice": _LOLA_DICE,
    "lola": _LOLA_DICE._replace(tie_rule="red_first"),
    "mfos": _MFOS,
    "jaxmarl": _MFOS._replace(num_actions=5, extra_planes="none", boundary="zero_last_reward", episodes=10),
    "loqa_three": _LOQA._replace(num_players=3, penalties="once"),
    "reciprocator": _LOQA._replace(
        num_players=3,
        num_coins=3,
        num_actions=5,
        moves="lola",
        penalties="balanced",
        initial_coins="any",
        respawn="any",
        horizon=32,
    ),
}
"""From the official code of each. LOQA's game is also that of BRS and Advantage Alignment.

M-FOS seats the agent that sees itself first now as red, now as blue; here own planes come
first for both. JaxMARL's game is that of pax; its library default is a horizon of 10, pax
plays 16 (as here) and up to 600 episodes in a row.

Of three players LOQA's code never has green's coin first; here the first colour is any. The Reciprocator's (Zhou et al.
2024, arXiv 2406.01641) shows the players one list of planes, shifted by two per seat, so that players and coins change
places; here own planes come first, then those of the seats that follow.
"""


ANCHORS: dict[str, dict[int, tuple[float, float, float]]] = {
    "one coin": {
        3: (0.0, 0.349, 0.531),
        4: (0.0, 0.244, 0.395),
        5: (0.0, 0.203, 0.350),
        6: (0.0, 0.163, 0.289),
        7: (0.0, 0.142, 0.258),
    },
    "one coin, red first": {3: (0.0, 0.349, 0.608)},
    "two coins": {3: (0.0, 0.307, 0.624)},
    "two coins, five actions": {3: (0.0, 0.306, 0.649)},
    "three players, one coin": {3: (-0.030, 0.232, 0.487), 4: (-0.017, 0.158, 0.366), 5: (-0.010, 0.133, 0.331)},
}
"""Coin Game by variant and size: return per step of scripted policies, mean of 16 384 episodes,
standard error 0.001. First: random play. Second: each takes only its own coins, by the shortest
way (the social optimum). Third: one who takes every coin it can, against random play (as near to
a best response as scripts come). Random play of two gets 0: half the coins it takes are the
other's, and cost the other twice what they pay. Where red alone takes a coin that both reach,
greed is red's. Three coins of three players have none: keeping off each other's coins, all wait
for one another, so that no script is the optimum."""


class State(NamedTuple):
    """State of a game. Cells count row by row from the top left, ``row * size + column``.

    Everything is a tuple of scalars: under ``vmap`` each becomes one contiguous vector.

    Attributes:
      time: steps since ``reset``.
      players: cells of the players, red, blue and possibly green.
      coins: cells of the coins.
      owners: colour of each coin, the number of the player.
      rewards: rewards of the last step, zero at the start of an episode.
    """

    time: Array
    players: Each
    coins: tuple[Array, ...]
    owners: tuple[Array, ...]
    rewards: Each


def _override(doc: str, *choices: Any, added: bool = False) -> Any:
    return field(None, f"{doc}; none: as the preset", choices=(None, *choices), static=True, added=added)


@pytree_dataclass
class CoinGame(PlayedGame):
    """The Coin Game, in the sampled view. All rules default to those of the preset."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {name: rules._asdict() for name, rules in PRESETS.items()}
    family: ClassVar[str | None] = "coin"
    counts: ClassVar[tuple[Count, ...]] = (
        Count(
            name="own_coins",
            doc="coins of the own colour taken, per step",
            unit="coins per step",
            direction="higher",
            source="Foerster et al., AAMAS 2018, Figure 5",
        ),
        Count(
            name="other_coins",
            doc="coins of the other's colour taken, per step",
            unit="coins per step",
            direction="lower",
            source="Aghajohari et al., ICLR 2024 (adversity)",
        ),
        share(
            "own_coin_share",
            "own_coins",
            "other_coins",
            source="Foerster et al., AAMAS 2018, Figure 5; Zhao et al., NeurIPS 2022",
        ),
    )

    preset: str = field("loqa", "whose conventions to play by", choices=tuple(PRESETS), static=True)
    size: int = field(3, "rows and columns of the torus", low=2, high=16, static=True)
    gamma: float = field(0.96, "discount", low=0.0, high=1.0)
    reward_own: float = field(1.0, "reward for taking a coin of the own colour")
    reward_other: float = field(1.0, "reward for taking a coin of the other's colour")
    penalty: float = field(-2.0, "reward of a coin's owner when the other takes it")
    horizon: int | None = field(None, "steps of an episode; none: as the preset", low=1, static=True)
    episodes: int | None = field(None, "episodes before a game is done; none: as the preset", low=1, static=True)
    num_coins: int | None = _override("one coin of changing colour, or one coin of each colour", 1, 2, 3)
    num_actions: int | None = _override("four directions, or these and to stay", 4, 5)
    moves: str | None = _override("order of the directions: right left down up, or left right up down", "lola", "loqa")
    tie_rule: str | None = _override(
        "who takes a coin that several arrive at: each as if alone, red alone, or each its share",
        "both",
        "red_first",
        "split",
    )
    num_players: int | None = _override("two players, or three", 2, 3, added=True)
    penalties: str | None = _override(
        "what an owner pays for: each that takes its coin; once, however many do; each, times n / (2 (n - 1))",
        "each",
        "once",
        "balanced",
        added=True,
    )
    initial_players: str | None = _override("may players start on one cell", "any", "distinct")
    initial_coins: str | None = _override("first coins on cells without players, or on any", "free", "any")
    respawn: str | None = _override("new coins on cells without players, or on any", "free", "any")
    colours: str | None = _override("colour of the next coin, if there is one", "alternate", "random")
    observation: str | None = _override(
        "planes [red, blue, red coin, blue coin]; [me, other, my coin, other's coin]; these with me at the centre",
        "global",
        "relative",
        "egocentric",
    )
    extra_planes: str | None = _override(
        "constant planes of own reward, other's reward, end of episode", "none", "rewards_done"
    )
    boundary: str | None = _override(
        "last step of an episode: as any, only resets the board, or is not paid",
        "none",
        "reset_step",
        "zero_last_reward",
    )

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """With as many coins as there are colours, or one."""
        preset = PRESETS[values["preset"]]._asdict()
        coins, players = (
            preset[name] if values[name] is None else values[name] for name in ("num_coins", "num_players")
        )
        if coins not in (1, players):
            raise ValueError(f"num_coins is {coins}; allowed: 1 or, of {players} players, {players}")
        return dict(values)

    @property
    def rules(self) -> Rules:
        """The rules in force: the preset's, but for those given."""
        own = {name: getattr(self, name) for name in Rules._fields}
        return PRESETS[self.preset]._replace(**{k: v for k, v in own.items() if v is not None})

    @property
    def n_players(self) -> int:
        return self.rules.num_players

    @property
    def n_actions(self) -> int:
        return self.rules.num_actions

    @property
    def seats(self) -> tuple[str, ...]:
        return COLOURS[: self.n_players]

    @property
    def board_planes(self) -> int:
        """All players, all colours' coins."""
        return 2 * self.n_players

    def anchors(self) -> Anchors | None:
        """The constants of the variant; None for rules, payoffs or sizes they were not measured for.

        First cells, moves, observations, and lengths from 15 steps on matter less than their digits.
        """
        rules = self.rules
        paid = (self.reward_own, self.reward_other, self.penalty) == (1.0, 1.0, -2.0)
        colours = rules.num_coins > 1 or rules.colours == "alternate"
        placed = (rules.initial_coins, rules.respawn) == (("free", "free") if rules.num_coins == 1 else ("any", "any"))
        kinds = {
            (2, 1, 4, "both", "none"): "one coin",
            (2, 1, 4, "red_first", "none"): "one coin, red first",
            (2, 2, 4, "both", "reset_step"): "two coins",
            (2, 2, 5, "both", "zero_last_reward"): "two coins, five actions",
            (3, 1, 4, "both", "none"): "three players, one coin",
        }
        variant = kinds.get((rules.num_players, rules.num_coins, rules.num_actions, rules.tie_rule, rules.boundary))
        measured = ANCHORS.get(variant or "", {}).get(self.size)
        penalised = rules.num_players == 2 or rules.penalties == "once"
        if measured is None or not (paid and colours and placed and penalised and rules.horizon >= 15):
            return None
        # Coins may lie on one cell, and then pay together.
        return of_scripts(measured, smallest=-2.0, largest=float(rules.num_coins))

    @property
    def symmetric(self) -> bool:
        """Exchanging two policies exchanges their returns, if each sees the board from its own seat.

        Of three, not where the colour of the coin goes around: then it matters whose coin comes after one's own.
        """
        rules = self.rules
        around = rules.num_players > 2 and rules.num_coins == 1 and rules.colours == "alternate"
        return rules.tie_rule != "red_first" and rules.observation != "global" and not around

    @property
    def observation_shape(self) -> tuple[int, int, int]:
        """Shape of one player's observation: channels, rows, columns."""
        constants = 0 if self.rules.extra_planes == "none" else self.n_players + 1
        return (self.board_planes + constants, self.size, self.size)

    @property
    def num_steps(self) -> int:
        """Calls of ``step`` until a game is done."""
        return self.rules.horizon * self.rules.episodes

    @property
    def num_moves(self) -> int:
        """The same without those that only reset the board: what returns per step divide by."""
        idle = 1 if self.rules.boundary == "reset_step" else 0
        return (self.rules.horizon - idle) * self.rules.episodes

    def reset(self, key: Array) -> tuple[Array, State]:
        """Returns observations ``(n_players, *observation_shape)`` and state."""
        state = self._board(jax.random.bits(key, (2,), jnp.uint32))
        return self.observe(state), state

    def step(self, key: Array, state: State, actions: Array) -> tuple[Array, State, Array, Array, dict[str, Array]]:
        """One simultaneous move.

        Args:
          key: chance of this step: where and in which colour coins reappear.
          state: from ``reset`` or ``step``.
          actions: ``(n_players,)`` integers below ``n_actions``.

        Returns:
          Observations ``(n_players, *observation_shape)``, state, rewards ``(n_players,)``,
          done (of the last episode), and as info the pick-ups of each player, ``own_coins`` and
          ``other_coins``, ``(n_players,)``.
        """
        rules = self.rules
        chained = rules.episodes > 1
        bits = jax.random.bits(key, (3 if chained else 1,), jnp.uint32)
        players = self._all_moved(state.players, actions)
        own, other, lost = self._pick_ups(players, state)
        coins, owners = self._respawned(bits[0], players, state)
        rewards = self._paid(own, other, lost)
        if rules.boundary != "none":
            last = state.time % rules.horizon == rules.horizon - 1
            rewards = _where(last, _zeros(rewards), rewards)
            if rules.boundary == "reset_step":
                own, other = _where(last, _zeros((own, other)), (own, other))
        after = State(time=state.time + 1, players=players, coins=coins, owners=owners, rewards=rewards)
        if chained:
            fresh = self._board(bits[1:])._replace(time=after.time)
            after = _where(after.time % rules.horizon == 0, fresh, after)
        info = {"own_coins": jnp.stack(own), "other_coins": jnp.stack(other)}
        return self.observe(after), after, jnp.stack(rewards), after.time >= self.num_steps, info

    def observe(self, state: State, player: int | None = None) -> Array:
        """What ``player`` sees of a state, ``observation_shape``; by default what all see, ``(n_players, ...)``.

        A state is much smaller than its observation: store the one, recompute the other.
        """
        n = self.size
        shown = range(self.n_players) if player is None else (player,)
        seats = [RED if self.rules.observation == "global" else seat for seat in shown]
        # One comparison for all planes, which vectorises: planes built apart do not.
        pieces = jnp.stack([jnp.stack(self._pieces(state, seat)) for seat in seats])
        planes = (pieces[..., None] == jnp.arange(n * n, dtype=jnp.int32)).astype(jnp.result_type(float))
        if self.rules.extra_planes == "rewards_done":
            # The end shows where play has ended but the board is still to be reset.
            ended = (state.time % self.rules.horizon == self.rules.horizon - 1).astype(planes.dtype)
            constants = jnp.stack([jnp.stack([*self._from_seat(i, state.rewards), ended]) for i in seats])
            constants = jnp.broadcast_to(constants[..., None], (*constants.shape, n * n))
            planes = jnp.concatenate([planes, constants], axis=1)
        planes = planes.reshape(len(seats), -1, n, n)
        return planes if player is None else planes[0]

    legend: ClassVar[Mapping[str, Glyph]] = {
        "red": Glyph("disc", "red", player=RED),
        "blue": Glyph("square", "blue", player=BLUE),
        "green": Glyph("triangle", "green", player=GREEN),
        "red coin": Glyph("ring", "coins", owner=RED),
        "blue coin": Glyph("diamond", "coins", owner=BLUE),
        "green coin": Glyph("cross", "coins", owner=GREEN),
    }
    board_note: ClassVar[str] = (
        "Each player is paid for any coin that it picks up; whoever picks up the other's coin takes more from the "
        "other than it gains."
    )

    def board(self, state: State) -> Board:
        """Coins, and the players over them."""
        coins = [f"{self.seats[int(owner)]} coin" for owner in state.owners]
        lying = zip((*coins, *self.seats), (*state.coins, *state.players), strict=True)
        pieces = [Piece(glyph, *divmod(int(cell), self.size)) for glyph, cell in lying]
        return Board(rows=self.size, columns=self.size, pieces=pieces)

    @property
    def pays_in_public(self) -> bool:
        return self.rules.observation != "egocentric"

    def paid(self, observations: Array, actions: Array) -> Array:
        """Reads the board off the planes; a fresh coin's cell does not matter to what is paid.

        Raises:
          ValueError: the planes are centred on the player, which hides where the board ends.
        """
        if self.rules.observation == "egocentric":
            raise ValueError("rewards cannot be read from egocentric observations")
        n = self.n_players
        cells = observations[..., : 2 * n, :, :].reshape(*observations.shape[:-3], 2 * n, -1)
        where = jnp.argmax(cells, axis=-1).astype(jnp.int32)
        present = jnp.max(cells, axis=-1) > 0.5

        def one(where: Array, present: Array, actions: Array) -> Array:
            coins, owners = [where[n + k] for k in range(n)], [jnp.int32(k) for k in range(n)]
            if self.rules.num_coins == 1:
                coin, owner = coins[-1], owners[-1]
                for k in reversed(range(n - 1)):
                    coin = jnp.where(present[n + k], coins[k], coin)
                    owner = jnp.where(present[n + k], owners[k], owner)
                coins, owners = [coin], [owner]
            before = tuple(where[k] for k in range(n))
            nothing = (jnp.zeros(()),) * n
            state = State(time=jnp.int32(0), players=before, coins=tuple(coins), owners=tuple(owners), rewards=nothing)
            return jnp.stack(self._paid(*self._pick_ups(self._all_moved(before, actions), state)))

        flat = one
        for _ in range(actions.ndim - 1):
            flat = jax.vmap(flat)
        return flat(where, present, actions)

    scripts: ClassVar[tuple[str, ...]] = ("all-c", "all-d", "tft", "random")

    def script(self, name: str, memory: Array, state: State, player: int) -> tuple[Array, Array]:
        """``all-c`` and ``all-d`` are LOQA's always-cooperate and always-defect, see below;
        ``tft`` (POLA's evaluation) cooperates, defects after a step that cost it something and
        cooperates again after one that paid."""
        if name == "random":
            return memory, jnp.zeros((self.n_actions,))
        reward = state.rewards[player]
        memory = jnp.where(reward < 0, 1.0, jnp.where(reward > 0, 0.0, memory))
        defects = jnp.asarray({"all-c": False, "all-d": True, "tft": memory > 0.5}[name])
        cost = jnp.where(defects, _greed(self, state, player), _restraint(self, state, player))
        return memory, jnp.where(cost == jnp.min(cost), 0.0, -jnp.inf)

    def _moved(self, cell: Array, action: Array) -> Array:
        return moved(cell, action, MOVES[self.rules.moves][: self.n_actions], self.size)

    def _all_moved(self, players: Each, actions: Array) -> Each:
        return tuple(self._moved(cell, actions[i]) for i, cell in enumerate(players))

    def _paid(self, own: Each, other: Each, lost: Each) -> Each:
        """Rewards of the pick-ups."""
        rules = self.rules
        penalty = self.penalty
        if rules.penalties == "balanced" and rules.num_players > 2:  # of two it is the penalty itself
            penalty = penalty * (rules.num_players / (2 * (rules.num_players - 1)))
        return tuple(
            self.reward_own * mine + self.reward_other * others + penalty * theirs
            for mine, others, theirs in zip(own, other, lost, strict=True)
        )

    def _from_seat(self, seat: int, per_player: Sequence[Any]) -> list[Any]:
        """One's own, then those of the seats that follow."""
        return [per_player[(seat + k) % self.n_players] for k in range(self.n_players)]

    def _pieces(self, state: State, seat: int) -> list[Array]:
        """The cell to mark in each of the planes of the board that a seat sees; -1 for none."""
        n, order = self.size, self._from_seat(seat, range(self.n_players))
        if self.rules.num_coins == 1:
            coins = [jnp.where(state.owners[0] == i, state.coins[0], -1) for i in order]
        else:
            coins = [state.coins[i] for i in order]
        pieces = [*(state.players[i] for i in order), *coins]
        if self.rules.observation != "egocentric":
            return pieces
        own_row, own_column = place(state.players[seat], n)

        def centred(cell: Array) -> Array:
            row, column = place(cell, n)
            shifted = n * wrapped(row - own_row + n // 2, n) + wrapped(column - own_column + n // 2, n)
            return jnp.where(cell < 0, cell, shifted)

        return [centred(cell) for cell in pieces]

    def _board(self, bits: Array) -> State:
        """The start of an episode, from two random words."""
        rules, cells, n = self.rules, self.size**2, self.n_players
        players: list[Array] = []
        rest = bits[0]
        for k in range(n):
            apart = rules.initial_players == "distinct"
            cell, rest = below(cells - k if apart else cells, rest)
            for taken in _ascending(players) if apart else ():
                cell = cell + (cell >= taken)
            players.append(cell)
        colour, rest = below(n, bits[1])
        coins = []
        for _ in range(rules.num_coins):
            cell, rest = self._coin_cell(rest, tuple(players), rules.initial_coins)
            coins.append(cell)
        owners = (colour,) if rules.num_coins == 1 else tuple(jnp.int32(k) for k in range(n))
        nothing = (jnp.zeros(()),) * n
        return State(time=jnp.int32(0), players=tuple(players), coins=tuple(coins), owners=owners, rewards=nothing)

    def _coin_cell(self, bits: Array, players: Each, where: str) -> tuple[Array, Array]:
        """A random cell for a coin, and what is left of the random word."""
        cells = self.size**2
        if where == "any":
            return below(cells, bits)
        taken = _ascending(players)
        apart = [(one != next_one).astype(jnp.int32) for one, next_one in itertools.pairwise(taken)]
        cell, rest = below(functools.reduce(operator.sub, apart, cells - 1), bits)
        cell = cell + (cell >= taken[0])  # counts through the free cells: skips the lowest taken one,
        for next_one, differs in zip(taken[1:], apart, strict=True):
            cell = cell + ((cell >= next_one) & (differs > 0))  # then the higher ones
        return cell, rest

    def _respawned(self, bits: Array, players: Each, state: State) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Coins and their owners after the players have moved: what was taken reappears."""
        rules = self.rules
        coins, owners = [], []
        for cell, owner in zip(state.coins, state.owners, strict=True):
            taken = functools.reduce(operator.or_, [cell == player for player in players])
            new, bits = self._coin_cell(bits, players, rules.respawn)
            coins.append(jnp.where(taken, new, cell))
            if rules.num_coins == 1:
                after = 1 - owner if self.n_players == 2 else wrapped(owner + 1, self.n_players)
                colour, bits = (after, bits) if rules.colours == "alternate" else below(self.n_players, bits)
                owner = jnp.where(taken, colour, owner)
            owners.append(owner)
        return tuple(coins), tuple(owners)

    def _pick_ups(self, players: Each, state: State) -> tuple[Each, Each, Each]:
        """Own and others' coins that each player is paid for after moving to ``players``, and own ones that others
        take, of which each costs a penalty."""
        rules, n = self.rules, self.n_players
        dtype = jnp.result_type(float)
        own, other, lost = list(_zeros(state.rewards)), list(_zeros(state.rewards)), list(_zeros(state.rewards))
        for cell, owner in zip(state.coins, state.owners, strict=True):
            on = [player == cell for player in players]
            if rules.tie_rule == "red_first":
                for i in range(1, n):
                    on[i] &= ~functools.reduce(operator.or_, on[:i])
            share: Any = 1.0
            if rules.tie_rule == "split":
                share = 1.0 / jnp.maximum(functools.reduce(operator.add, [x.astype(dtype) for x in on]), 1.0)
            for i, takes in enumerate(on):
                own[i] += share * (takes & (owner == i)).astype(dtype)
                other[i] += share * (takes & (owner != i)).astype(dtype)
            for i in range(n) if n > 2 else ():
                foreign = sum(share * (takes & (owner == i)).astype(dtype) for j, takes in enumerate(on) if j != i)
                lost[i] += jnp.minimum(foreign, 1.0) if rules.penalties == "once" else foreign
        # Of two, one loses what the other takes.
        return tuple(own), tuple(other), tuple(lost) if n > 2 else tuple(reversed(other))


def _ascending(cells: Sequence[Array]) -> list[Array]:
    """Sorted scalars, by comparisons that vectorise."""
    out = list(cells)
    for end in reversed(range(1, len(out))):
        for k in range(end):
            out[k], out[k + 1] = jnp.minimum(out[k], out[k + 1]), jnp.maximum(out[k], out[k + 1])
    return out


def _where(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _zeros(tree: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, tree)


# --- scripted policies ----------------------------------------------------------------


def always_defect(game: CoinGame, key: Array, state: State, player: int) -> Array:
    """The greedy action: towards the nearest coin of whatever colour, ties broken at random.

    The opponent that LOQA's league calls always-defect.
    """
    return _least(key, _greed(game, state, player))


def always_cooperate(game: CoinGame, key: Array, state: State, player: int) -> Array:
    """Towards an own coin, away from the other's coin, ties broken at random.

    As LOQA's league defines it for one coin. With one coin of each colour: towards the own
    coin, but never onto another's.
    """
    return _least(key, _restraint(game, state, player))


def uniformly_random(game: CoinGame, key: Array, state: State, player: int) -> Array:
    """Any action, all with the same probability."""
    del state, player
    return below(game.n_actions, jax.random.bits(key, (), jnp.uint32))[0]


def _distances(game: CoinGame, state: State, player: int) -> list[Array]:
    """Torus Manhattan distance to each coin after each action, a list of ``(n_actions,)``."""
    n = game.size
    moves = jnp.array(MOVES[game.rules.moves][: game.n_actions], jnp.int32).T
    after = [wrapped(x + move, n) for x, move in zip(place(state.players[player], n), moves, strict=True)]
    out = []
    for coin in state.coins:
        apart = [jnp.abs(a - b) for a, b in zip(after, place(coin, n), strict=True)]
        out.append(jnp.minimum(apart[0], n - apart[0]) + jnp.minimum(apart[1], n - apart[1]))
    return out


def _restraint(game: CoinGame, state: State, player: int) -> Array:
    distances = _distances(game, state, player)
    if game.rules.num_coins == 1:
        mine = state.owners[0] == player
        return jnp.where(mine, distances[0], -distances[0])
    others = [apart == 0 for owner, apart in enumerate(distances) if owner != player]
    return jnp.where(functools.reduce(operator.or_, others), 2 * game.size, distances[player])


def _greed(game: CoinGame, state: State, player: int) -> Array:
    return functools.reduce(jnp.minimum, _distances(game, state, player))


def _least(key: Array, cost: Array) -> Array:
    """Index of a smallest integer cost, ties broken at random."""
    noise = jax.random.uniform(key, cost.shape, jnp.float32)
    return jnp.argmin(cost + noise).astype(jnp.int32)
