"""Infinitely repeated two-action games between memory-one policies.

A policy is the vector of logits ``[start, CC.., CD.., DC.., DD..]`` of playing action 0
(cooperate, heads, swerve), each state read from the owner's seat: own last action first,
then the other players' in seat order from the owner's right. The second player's CD and
DC are swapped here and nowhere else. With two players the order is the canonical
``[start, CC, CD, DC, DD]``.

The value of player i is ``V_i = s0' (I - gamma P)^-1 r_i`` (LOLA paper, section 4.1;
unnormalised: the first reward is undiscounted), with ``P`` the Markov chain over joint
actions. Its derivative is the policy-gradient theorem in closed form,
``dV_i = sum_s visits_s dP_s . w_i``, with the discounted visits of each state and the
continuation values ``w_i``; both solve a linear system whose derivative is again a solve,
so derivatives of every order cost a few matrix-vector products each.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from shaping_bench.games.anchors import SATURATED_LOGIT
from shaping_bench.games.base import Count, Params
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.matrix.tables import TableGame
from shaping_bench.games.views import replaced

Scalars = tuple[Any, ...]


# --- linear systems over joint states -------------------------------------------------
#
# Everything below works on tuples of scalars. That looks unusual; it is what makes the
# compiled code fast (structure of arrays under vmap, no batched linear algebra).


def _dot(x: Scalars, y: Scalars) -> Any:
    total = x[0] * y[0]
    for a, b in zip(x[1:], y[1:], strict=True):
        total = total + a * b
    return total


def _inverse_3x3(m: tuple[Scalars, ...]) -> tuple[Scalars, ...]:
    (a, b, c), (d, e, f), (g, h, i) = m
    ca, cb, cc = e * i - f * h, f * g - d * i, d * h - e * g
    r = 1.0 / (a * ca + b * cb + c * cc)
    return (
        (ca * r, (c * h - b * i) * r, (b * f - c * e) * r),
        (cb * r, (a * i - c * g) * r, (c * d - a * f) * r),
        (cc * r, (b * g - a * h) * r, (a * e - b * d) * r),
    )


@jax.jit
def _inverse(a: Array) -> Array:
    """Gauss-Jordan inversion without pivoting, ``(n, n)``, for diagonally dominant systems."""
    index = jnp.arange(len(a))
    for k in range(len(a)):
        pivot = 1.0 / a[k, k]
        here = index == k
        row = jnp.where(here, pivot, a[k] * pivot)
        column = jnp.where(here, -1.0, a[:, k])
        a = jnp.where(here[None, :], 0.0, jnp.where(here[:, None], 0.0, a)) - column[:, None] * row[None, :]
    return a


@jax.custom_jvp
def _solve(m: tuple[Scalars, ...], b: Scalars) -> Scalars:
    """Solves ``m x = b``; by cofactors for 3x3, by Gauss-Jordan otherwise."""
    if len(b) == 3:
        return tuple(_dot(row, b) for row in _inverse_3x3(m))
    return tuple(dense_solve(jnp.stack([jnp.stack(row) for row in m]), jnp.stack(b)))


@_solve.defjvp
def _solve_jvp(primals: Any, tangents: Any) -> Any:
    (m, b), (dm, db) = primals, tangents
    x = _solve(m, b)
    return x, _solve(m, tuple(d - _dot(row, x) for d, row in zip(db, dm, strict=True)))


def _transpose(m: tuple[Scalars, ...]) -> tuple[Scalars, ...]:
    return tuple(zip(*m, strict=True))


def _reduced_system(chain: tuple[Scalars, ...], gamma: Any) -> tuple[Scalars, ...]:
    """``I - gamma P`` without its last row and column, after subtracting the last row.

    Rows of P sum to one, so the constant direction drops out: with u_s = w_s - w_last the
    4x4 system of two players becomes 3x3, closed form by cofactors.
    """
    *rows, last = chain[1:]
    return tuple(
        tuple(float(s == t) - gamma * (row[t] - last[t]) for t in range(len(last))) for s, row in enumerate(rows)
    )


def _full_system(chain: tuple[Scalars, ...], gamma: Any) -> tuple[Scalars, ...]:
    """``I - gamma P`` in full: strictly diagonally dominant, so no pivoting is needed."""
    full = [(*row, 1.0 - sum(row)) for row in chain[1:]]
    return tuple(tuple(float(s == t) - gamma * p for t, p in enumerate(row)) for s, row in enumerate(full))


def _relative_continuations(chain: tuple[Scalars, ...], rewards: Scalars, gamma: Any) -> Scalars:
    """Continuation values relative to the last joint action, ``w_s - w_last`` for s < last."""
    one = jnp.ones_like(chain[0][0])
    if len(rewards) == 4:
        relative = tuple((r - rewards[-1]) * one for r in rewards[:-1])
        return _solve(_reduced_system(chain, gamma), relative)
    w = _solve(_full_system(chain, gamma), tuple(r * one for r in rewards))
    return tuple(x - w[-1] for x in w[:-1])


def _visits(chain: tuple[Scalars, ...], gamma: Any) -> Scalars:
    """Discounted number of visits of each joint action; sums to 1 / (1 - gamma)."""
    start, last = chain[0], chain[-1]
    horizon = 1.0 / (1.0 - gamma)
    if len(start) == 3:
        source = tuple(a + gamma * horizon * b for a, b in zip(start, last, strict=True))
        head = _solve(_transpose(_reduced_system(chain, gamma)), source)
        return (*head, horizon - sum(head))
    return _solve(_transpose(_full_system(chain, gamma)), (*start, 1.0 - sum(start)))


@jax.custom_jvp
def discounted_value(chain: tuple[Scalars, ...], rewards: Scalars, gamma: Any) -> Any:
    """``s0' (I - gamma P)^-1 r`` of a Markov chain over joint actions.

    Args:
      chain: for the start and then each joint action, the probabilities of the next joint
        action but for the last one (which is implied).
      rewards: reward of each joint action.
      gamma: discount.
    """
    u = _relative_continuations(chain, rewards, gamma)
    return (rewards[-1] + gamma * _dot(chain[-1], u)) / (1.0 - gamma) + _dot(chain[0], u)


@functools.partial(discounted_value.defjvp, symbolic_zeros=True)
def _discounted_value_jvp(primals: Any, tangents: Any) -> Any:
    (chain, rewards, gamma), (d_chain, d_rewards, d_gamma) = primals, tangents
    u, visits = _relative_continuations(chain, rewards, gamma), _visits(chain, gamma)
    value = discounted_value(chain, rewards, gamma)
    tangent = jnp.zeros_like(value)

    def accumulate(total: Any, factor: Any, d: Any) -> Any:
        return total if isinstance(d, SymbolicZero) else total + factor * d

    for reached, row in zip((1.0, *(gamma * v for v in visits)), d_chain, strict=True):
        if not all(isinstance(d, SymbolicZero) for d in row):
            inner: Any = 0.0
            for x, d in zip(u, row, strict=True):
                inner = accumulate(inner, x, d)
            tangent = tangent + reached * inner
    for v, d in zip(visits, d_rewards, strict=True):
        tangent = accumulate(tangent, v, d)
    if not isinstance(d_gamma, SymbolicZero):
        w_last = (rewards[-1] + gamma * _dot(chain[-1], u)) / (1.0 - gamma)
        onward = sum(v * (_dot(row, u) + w_last) for v, row in zip(visits, chain[1:], strict=True))
        tangent = tangent + onward * d_gamma
    return value, tangent


# --- seats --------------------------------------------------------------------------------


def seat_states(n_players: int, player: int) -> tuple[int, ...]:
    """Maps each joint action (first player's action is the highest bit) to the index of the
    same state in ``player``'s own frame: own action first, then the others from its right."""

    def own_index(joint: tuple[int, ...]) -> int:
        own = joint[player:] + joint[:player]
        return int("".join(map(str, own)), 2)

    return tuple(own_index(joint) for joint in itertools.product((0, 1), repeat=n_players))


def state_names(n_players: int) -> tuple[str, ...]:
    """Names of a player's policy parameters, e.g. ``("start", "CC", "CD", "DC", "DD")``."""
    return ("start", *("".join(s) for s in itertools.product("CD", repeat=n_players)))


def _joint_chain(params: Sequence[Params]) -> tuple[Scalars, ...]:
    probabilities = []
    for player, theta in enumerate(params):
        start, *own = (jax.nn.sigmoid(x) for x in theta)
        probabilities.append((start, *(own[k] for k in seat_states(len(params), player))))
    rows = []
    for cooperate in zip(*probabilities, strict=True):
        joint: list[Any] = [1.0]
        for p in cooperate:
            joint = [branch for x in joint for branch in (x * p, x - x * p)]
        rows.append(tuple(joint[:-1]))
    return tuple(rows)


@jax.jit  # inlined by the compiler; here so that repeated derivatives are traced only once
def _memory_one_value(params: tuple[Params, ...], rewards: Scalars, gamma: Any) -> Array:
    if len(params) == 2:
        return discounted_value(_joint_chain(params), rewards, gamma)
    return dense_value(_dense_chain(params), jnp.stack([jnp.asarray(r) for r in rewards]), gamma)


# With three and more players the chain has 8 and more states, and a program of scalars would
# take the compiler minutes. The same formulas, on arrays:


def _dense_chain(params: tuple[Params, ...], decided_by: int | None = None) -> Array:
    """As :func:`_joint_chain`, ``(1 + 2**n, 2**n)``, the last joint action included; where somebody decides, of the
    others' actions, with a minus where that player takes action 1."""
    n = len(params)
    joint: Array = jnp.ones((1 + 2**n, 1))
    for player, theta in enumerate(params):
        start, *own = theta
        if player == decided_by:
            joint = jnp.stack([joint, -joint], axis=-1).reshape(1 + 2**n, -1)
            continue
        p = jax.nn.sigmoid(jnp.stack([start, *(own[k] for k in seat_states(n, player))]))[:, None]
        joint = jnp.stack([joint * p, joint * (1.0 - p)], axis=-1).reshape(1 + 2**n, -1)
    return joint


def _dense_advantages(params: tuple[Params, ...], player: int, rewards: Sequence[Any], gamma: Any) -> tuple[Array, ...]:
    """As :meth:`MemoryOneGame.action_advantages`."""
    chain = _dense_chain(params)
    r = jnp.stack([jnp.asarray(x) for x in rewards]).astype(chain.dtype)
    continuation = dense_solve(jnp.eye(len(r), dtype=chain.dtype) - gamma * chain[1:], r)
    returns = r + gamma * jnp.sum(chain[1:] * continuation, axis=-1)
    gaps = jnp.sum(_dense_chain(params, decided_by=player) * returns, axis=-1)
    order = {own: 1 + k for k, own in enumerate(seat_states(len(params), player))}
    return (gaps[0], *(gaps[order[own]] for own in range(len(r))))


@jax.custom_jvp
def dense_solve(m: Array, b: Array) -> Array:
    """Solves ``m x = b`` for a diagonally dominant matrix ``(n, n)``."""
    return jnp.sum(_inverse(m) * b, axis=-1)


@dense_solve.defjvp
def _dense_solve_jvp(primals: Any, tangents: Any) -> Any:
    (m, b), (dm, db) = primals, tangents
    x = dense_solve(m, b)
    return x, dense_solve(m, db - jnp.sum(dm * x, axis=-1))


@jax.custom_jvp
def dense_value(chain: Array, rewards: Array, gamma: Any) -> Array:
    """As :func:`discounted_value`, of a chain ``(1 + n, n)`` and rewards ``(n,)`` in full."""
    system = jnp.eye(len(rewards), dtype=chain.dtype) - gamma * chain[1:]
    return jnp.sum(chain[0] * dense_solve(system, rewards.astype(chain.dtype)))


@dense_value.defjvp
def _dense_value_jvp(primals: Any, tangents: Any) -> Any:
    (chain, rewards, gamma), (d_chain, d_rewards, d_gamma) = primals, tangents
    system = jnp.eye(len(rewards), dtype=chain.dtype) - gamma * chain[1:]
    continuation = dense_solve(system, rewards.astype(chain.dtype))
    visits = dense_solve(system.T, chain[0])
    reached = jnp.concatenate([jnp.ones((1,), chain.dtype), gamma * visits])
    onward = jnp.sum(chain[1:] * continuation, axis=-1)
    tangent = jnp.sum(reached * jnp.sum(d_chain * continuation, axis=-1)) + jnp.sum(
        visits * (d_rewards + onward * d_gamma)
    )
    return jnp.sum(chain[0] * continuation), tangent


class EnvState(NamedTuple):
    """State of the sampled view: time step and the last joint action (-1 at the start)."""

    time: Array
    joint_action: Array


class MemoryOneGame(TableGame):
    """Shared machinery of repeated two-action games; subclasses define ``payoffs``."""

    views: ClassVar[frozenset[str]] = frozenset({"exact", "sampled"})
    memory_one: ClassVar[bool] = True
    counts: ClassVar[tuple[Count, ...]] = (
        Count("cooperation", "how often the player plays action 0", "share", high=1.0, source="this benchmark"),
    )

    gamma: Any
    horizon: int

    def as_table(self) -> "RepeatedGame":
        """The repeated game of its payoffs, whose programs all repeated games of as many players share."""
        return RepeatedGame(  # type: ignore[call-arg, return-value]
            payoffs=self.payoffs,
            gamma=self.gamma,
            init_mean=self.init_mean,
            init_std=self.init_std,
            horizon=self.horizon,
        ).unpinned()

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1 + 2**self.n_players,) * self.n_players

    @property
    def coordinates(self) -> tuple[tuple[str, ...], ...]:
        return (state_names(self.n_players),) * self.n_players

    @property
    def per_step(self) -> Any:
        return 1.0 - self.gamma

    # exact view

    def chain(self, params: Sequence[Params]) -> tuple[Scalars, ...]:
        """Start and transition probabilities over joint actions (the last one is implied)."""
        return _joint_chain(params)

    def value(self, params: Sequence[Params], player: int) -> Array:
        return _memory_one_value(tuple(params), tuple(self.payoffs[player]), self.gamma)

    def occupancy(self, params: Sequence[Params]) -> Array:
        """Discounted occupancy of the joint actions, ``(2**n_players,)``, sums to one."""
        return (1.0 - self.gamma) * jnp.stack(_visits(self.chain(params), self.gamma))

    def observables(self, params: Sequence[Params]) -> dict[str, Array]:
        """Discounted cooperation rates and each state's probability of action 0."""
        n, occupancy = self.n_players, self.occupancy(params)
        joint = list(itertools.product((0, 1), repeat=n))
        rates = [sum(occupancy[k] for k, a in enumerate(joint) if a[i] == 0) for i in range(n)]
        out = {"cooperation": jnp.stack(rates), "mutual_cooperation": jnp.full((n,), occupancy[0])}
        for k, name in enumerate(state_names(n)):
            out[f"cooperation_{name}"] = jnp.stack([jax.nn.sigmoid(theta[k]) for theta in params])
        return out

    def best_response(self, params: Sequence[Params], player: int) -> tuple[Array, ...]:
        """Optimal deterministic memory-one policy against fixed memory-one opponents.

        Policy iteration over the ``1 + 2**n`` states; longer memory cannot help against
        memory-one play. Saturated logits, a tuple of scalars.
        """
        return self.optimal_policy(params, player, self.payoffs[player])

    def optimal_policy(
        self, params: Sequence[Params], player: int, rewards: Sequence[Any], allowed: Sequence[Array] | None = None
    ) -> tuple[Array, ...]:
        """Policy of ``player`` that maximises any ``rewards`` over joint actions.

        Args:
          params: joint parameters; the player's own entry only fixes the shape.
          player: whose policy is optimised.
          rewards: reward of each joint action, ``(2**n,)``.
          allowed: per own state a pair of booleans (may play action 0, may play action 1).
        """
        n = self.n_players
        size = self.sizes[player]
        dtype = jnp.result_type(*params[player])

        def improve(policy: tuple[Array, ...]) -> tuple[Array, ...]:
            advantage = self.action_advantages(replaced(params, player, policy), player, rewards)
            choice = [jnp.where(a >= 0, SATURATED_LOGIT, -SATURATED_LOGIT).astype(dtype) for a in advantage]
            if allowed is not None:
                choice = [
                    jnp.where(both[0] & both[1], c, jnp.where(both[0], SATURATED_LOGIT, -SATURATED_LOGIT).astype(dtype))
                    for c, both in zip(choice, allowed, strict=True)
                ]
            return tuple(choice)

        first = tuple(jnp.full((), -SATURATED_LOGIT, dtype) for _ in range(size))
        # Policy iteration on 2**n states settles in a handful of rounds; the bound is slack.
        return jax.lax.fori_loop(0, 4 + 2 * 2**n, lambda _, p: improve(p), first)

    def action_advantages(self, params: Sequence[Params], player: int, rewards: Sequence[Any]) -> tuple[Array, ...]:
        """``Q(s, action 0) - Q(s, action 1)`` of ``player`` in each of its own states."""
        n = self.n_players
        if n > 4:  # a program of scalars takes the compiler minutes
            return _dense_advantages(tuple(params), player, rewards, self.gamma)
        chain = self.chain(params)
        u = _relative_continuations(chain, tuple(rewards), self.gamma)
        returns = [r + self.gamma * w for r, w in zip(rewards, self._onward(chain, rewards, u), strict=True)]
        joint_actions = list(itertools.product((0, 1), repeat=n))
        order = (0, *(1 + k for k in range(2**n)))
        advantages: list[Any] = [None] * len(order)
        others = [j for j in range(n) if j != player]
        for joint_state in range(-1, 2**n):
            gap: Any = 0.0
            for index, actions in enumerate(joint_actions):
                weight: Any = 1.0
                for j in others:
                    state = 0 if joint_state < 0 else 1 + seat_states(n, j)[joint_state]
                    p = jax.nn.sigmoid(params[j][state])
                    weight = weight * (p if actions[j] == 0 else 1.0 - p)
                gap = gap + (1.0 if actions[player] == 0 else -1.0) * weight * returns[index]
            own = 0 if joint_state < 0 else 1 + seat_states(n, player)[joint_state]
            advantages[own] = gap
        return tuple(advantages)

    def _onward(self, chain: tuple[Scalars, ...], rewards: Sequence[Any], u: Scalars) -> tuple[Any, ...]:
        """Expected continuation value after each joint action, ``(P w)_s``."""
        w_last = (rewards[-1] + self.gamma * _dot(chain[-1], u)) / (1.0 - self.gamma)
        return tuple(_dot(row, u) + w_last for row in chain[1:])

    # sampled view (gymnax's manner; finite horizon)

    def reset(self, key: Array) -> tuple[Array, EnvState]:
        """Returns observations ``(n_players,)`` (own-frame state index, 0 at the start) and state."""
        del key
        return jnp.zeros((self.n_players,), jnp.int32), EnvState(jnp.zeros((), jnp.int32), jnp.full((), -1, jnp.int32))

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """Scalars: the index of the state in the own frame, 0 at the start."""
        return ()

    @property
    def n_actions(self) -> int:
        return 2

    @property
    def num_steps(self) -> int:
        return self.horizon

    def observe(self, state: EnvState, player: int | None = None) -> Array:
        """The last joint action as ``player`` reads it; by default as each does, ``(n_players,)``."""
        if player is None:
            return jnp.stack([self.observe(state, i) for i in range(self.n_players)])
        frame: Any = jnp.zeros((), jnp.int32)
        for joint, index in enumerate(seat_states(self.n_players, player)):
            # Sums of comparisons instead of a table: gathers do not vectorise.
            frame = frame + jnp.where(state.joint_action == joint, 1 + index, 0)
        return frame

    def paid(self, observations: Array, actions: Array) -> Array:
        del observations
        return jnp.moveaxis(jnp.stack(self._rewards(self._joint(actions))), 0, -1)

    def _joint(self, actions: Array) -> Array:
        """Index of joint actions ``(..., n_players)``; the first player's is the highest bit."""
        n = self.n_players
        return sum(actions[..., i].astype(jnp.int32) << (n - 1 - i) for i in range(n))  # type: ignore[return-value]

    def _rewards(self, joint: Array) -> list[Array]:
        return [
            sum(jnp.where(joint == k, jnp.asarray(r), 0.0) for k, r in enumerate(row))  # type: ignore[misc]
            for row in self.payoffs
        ]

    def step(
        self, key: Array, state: EnvState, actions: Array
    ) -> tuple[Array, EnvState, Array, Array, dict[str, Array]]:
        """One simultaneous move.

        Args:
          key: unused, the game has no chance moves.
          state: from ``reset`` or ``step``.
          actions: ``(n_players,)`` integers, 0 or 1.

        Returns:
          Observations ``(n_players,)``, state, rewards ``(n_players,)``, done, and as info
          ``cooperation``, 1 for those who played action 0.
        """
        del key
        joint = self._joint(actions)
        rewards = jnp.stack(self._rewards(joint))
        after = EnvState(state.time + 1, joint)
        info = {"cooperation": (actions == 0).astype(rewards.dtype)}
        return self.observe(after), after, rewards, after.time >= self.horizon, info


@pytree_dataclass
class RepeatedGame(MemoryOneGame):
    """A repeated game given by its payoff table."""

    family: ClassVar[str | None] = "matrix"

    payoffs: tuple[tuple[float, ...], ...] = field(
        doc="reward of each player for the joint actions CC, CD, DC, DD (first player's action first)"
    )
    gamma: float = field(0.96, "discount", low=0.0, high=1.0, exclusive=True)
    init_mean: float = field(0.0, "mean of the initial logits")
    init_std: float = field(1.0, "standard deviation of the initial logits", low=0.0)
    horizon: int = field(150, "length of an episode of the sampled view", low=1, static=True)
