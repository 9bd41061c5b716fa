"""Strategies of repeated two-action games that remember more than one round: finite automata, and what they earn.

An automaton of M states says in each the probability of action 0, and which state follows each joint action. It begins
in state 0. A memory-one policy is one of five states, which are what it remembers. Two of them make a Markov chain over
pairs of states, so what either earns is a linear system; and whoever knows an automaton needs to remember its state
and nothing else, so the best response to it is a decision problem of M states, solved by policy iteration.

All of it is NumPy, in float64, for any leading axes.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from shaping_bench.games.anchors import SATURATED_LOGIT
from shaping_bench.games.matrix.repeated import seat_states

JOINT = 4
"""Joint actions of two players, CC, CD, DC, DD; the first is the own action in the owner's frame."""


class Automaton(NamedTuple):
    """A strategy.

    Attributes:
      cooperate: probability of action 0 in each state, ``(..., M)``.
      follows: the state after each joint action in the own frame, ``(..., M, 4)``.
    """

    cooperate: np.ndarray
    follows: np.ndarray


def encoded(automaton: Automaton) -> np.ndarray:
    """As the parameters of a policy, ``(..., 5 M)``: logits of action 0, then the states that follow.

    Raises:
      ValueError: fewer than two states, which would look like a memory-one policy.
    """
    cooperate, follows = (np.asarray(x, np.float64) for x in automaton)
    if cooperate.shape[-1] < 2:
        raise ValueError(f"an automaton has {cooperate.shape[-1]} state; allowed: at least 2")
    with np.errstate(divide="ignore"):
        logits = np.clip(np.log(cooperate) - np.log1p(-cooperate), -SATURATED_LOGIT, SATURATED_LOGIT)
    return np.concatenate([logits, follows.reshape(*follows.shape[:-2], -1)], axis=-1)


def decoded(theta: np.ndarray) -> Automaton:
    """The automaton of a policy's parameters: five logits of a memory-one policy, or what :func:`encoded` yields."""
    theta = np.asarray(theta, np.float64)
    size = theta.shape[-1]
    if size == 1 + JOINT:
        follows = np.broadcast_to(1 + np.arange(JOINT), (*theta.shape[:-1], size, JOINT))
        return Automaton(_sigmoid(theta), follows)
    states = size // (1 + JOINT)
    follows = np.rint(theta[..., states:]).astype(np.int64).reshape(*theta.shape[:-1], states, JOINT)
    return Automaton(_sigmoid(theta[..., :states]), follows)


def remember_more(sizes: Sequence[int]) -> bool:
    """Whether policies with so many parameters are automata, and not all of them memory-one."""
    known = all(size > 0 and size % (1 + JOINT) == 0 for size in sizes)
    return known and any(size > 1 + JOINT for size in sizes)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 0, 1.0, np.exp(-np.abs(x))) / (1.0 + np.exp(-np.abs(x)))


class Chain(NamedTuple):
    """Two automata at play. Pairs of states are numbered ``M_2 s_1 + s_2``.

    Attributes:
      plays: probability of each joint action (the first player's action first) in each pair, ``(N, P, 4)``.
      follows: the pair after it, ``(N, P, 4)``.
    """

    plays: np.ndarray
    follows: np.ndarray


def chain(first: Automaton, second: Automaton) -> Chain:
    """Two automata with one leading axis N, at play against one another."""
    a, b = first.cooperate[:, :, None], second.cooperate[:, None, :]
    plays = np.stack([a * b, a * (1.0 - b), (1.0 - a) * b, (1.0 - a) * (1.0 - b)], axis=-1)
    frame = list(seat_states(2, 1))  # the joint actions as the second player reads them
    follows = first.follows[:, :, None, :] * b.shape[-1] + second.follows[:, None, :, frame]
    count = len(plays)
    return Chain(plays.reshape(count, -1, JOINT), follows.reshape(count, -1, JOINT))


def occupancy(first: Automaton, second: Automaton, gamma: float) -> np.ndarray:
    """Discounted occupancy of the joint actions, ``(N, 4)``; sums to one."""
    both = chain(first, second)
    count, pairs, _ = both.plays.shape
    transitions = np.zeros((count, pairs, pairs))
    rows = np.arange(count)[:, None, None], np.arange(pairs)[None, :, None]
    np.add.at(transitions, (*rows, both.follows), both.plays)
    start = np.zeros((count, pairs, 1))
    start[:, 0] = 1.0 - gamma
    visits = np.linalg.solve(np.eye(pairs) - gamma * np.swapaxes(transitions, 1, 2), start)
    return (visits * both.plays).sum(axis=1)


def by_step(first: Automaton, second: Automaton, length: int) -> np.ndarray:
    """Probability of the joint actions in each step of an episode, ``(T, N, 4)``."""
    both = chain(first, second)
    count, pairs, _ = both.plays.shape
    here = np.zeros((count, pairs))
    here[:, 0] = 1.0
    seeds = np.arange(count)[:, None, None]
    out = np.empty((length, count, JOINT))
    for t in range(length):
        taken = here[:, :, None] * both.plays
        out[t] = taken.sum(axis=1)
        here = np.zeros((count, pairs))
        np.add.at(here, (np.broadcast_to(seeds, taken.shape), both.follows), taken)
    return out


def best_response_value(automaton: Automaton, rewards: Sequence[float], gamma: float) -> np.ndarray:
    """What the best of all strategies earns against an automaton, per step, ``(N,)``.

    Args:
      automaton: with one leading axis.
      rewards: of the responder, for the joint actions with its own action first.
      gamma: discount.
    """
    table = np.asarray(rewards, np.float64).reshape(2, 2)  # own action, the automaton's
    other = np.stack([automaton.cooperate, 1.0 - automaton.cooperate], axis=-1)  # (N, M, 2)
    frame = np.array(seat_states(2, 1)).reshape(2, 2)
    follows = automaton.follows[:, :, frame]  # (N, M, own action, the automaton's)
    earned = np.einsum("nmb,ab->nma", other, table)
    count, states = automaton.cooperate.shape
    lanes, here = np.arange(count)[:, None], np.arange(states)[None, :]
    choice = np.ones((count, states), np.int64)
    while True:
        moved = np.zeros((count, states, states))
        chosen = follows[lanes, here, choice]
        for b in range(2):
            np.add.at(moved, (lanes, here, chosen[..., b]), other[..., b])
        reward = earned[lanes, here, choice]
        values = np.linalg.solve(np.eye(states) - gamma * moved, reward[..., None])[..., 0]
        onward = values[np.arange(count)[:, None, None, None], follows]
        quality = earned + gamma * (onward * other[:, :, None, :]).sum(axis=-1)
        kept = quality[lanes, here, choice]
        # An action takes the place of another only where it is better by more than rounding.
        better = quality.max(axis=-1) > kept + 1e-12 * np.maximum(1.0, np.abs(kept))
        if not better.any():
            return (1.0 - gamma) * values[:, 0]
        choice = np.where(better, quality.argmax(axis=-1), choice)


def flat(theta: Any) -> np.ndarray:
    """Parameters with one leading axis."""
    theta = np.asarray(theta, np.float64)
    return theta.reshape(-1, theta.shape[-1])
