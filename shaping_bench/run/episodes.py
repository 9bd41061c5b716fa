"""One episode of final policies, kept for people who look, in games that show a board."""

import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.games.base import Game
from shaping_bench.games.grids.board import Board, seated

SHOWN_STEPS = 64
"""Most steps of an episode that is shown."""

VERSION = 2
"""Of the file. The first held boards of the Coin Game only: ``agents`` and ``coins``."""


def shown_episode(game: Game, learners: Sequence[Learner], params: Sequence[Any], seed: int) -> dict[str, Any] | None:
    """One episode of a joint policy as the boards of all times, at most :data:`SHOWN_STEPS` steps.

    A board that cannot be drawn costs the episode, with a warning, and nothing else: an encounter
    is no worse for being hard to look at.

    Args:
      game: any game.
      learners: one per player.
      params: per player one policy (no seeds' axis).
      seed: of the episode.

    Returns:
      What ``episode.json`` holds: the size of the board, the ``legend`` of what lies on it, and per time a board
      (:meth:`shaping_bench.games.grids.board.Board.plain`) with the ``rewards`` that led there; None where the
      game shows nothing.
    """
    if "sampled" not in game.views or type(game).board is Game.board:
        return None
    try:
        if game.board(jax.device_get(game.reset(jax.random.key(seed))[1])) is None:
            return None
        return _episode(game, learners, params, seed)
    except Exception as error:  # whatever a game of somebody's own may raise
        warnings.warn(f"an episode of {type(game).__name__} cannot be shown: {error!r}", stacklevel=2)
        return None


def _episode(game: Game, learners: Sequence[Learner], params: Sequence[Any], seed: int) -> dict[str, Any]:
    policies = [rule.policy(game, i) for i, rule in enumerate(learners)]
    length = min(game.num_steps, SHOWN_STEPS)
    play = jax.jit(lambda key, params: rollout(key, game, policies, params, 1, num_steps=length))
    episode = jax.device_get(play(jax.random.key(seed), tuple(params)))
    rewards = np.concatenate([np.zeros((1, game.n_players)), episode.rewards[:, 0]])
    boards = [game.board(jax.tree.map(lambda x, t=t: x[t, 0], episode.states)) for t in range(length + 1)]
    frames = []
    for board, paid in zip(boards, rewards, strict=True):
        if not isinstance(board, Board):
            raise TypeError(f"board is a {type(board).__name__}; allowed: a Board of shaping_bench.games.grids.board")
        board.check(game.legend, game.n_players)
        frames.append({**board.plain(), "rewards": paid.tolist()})
    first = boards[0]
    assert isinstance(first, Board)
    return {
        "version": VERSION,
        "seats": list(game.seats),
        "note": game.board_note,
        "rows": first.rows,
        "columns": first.columns,
        "legend": {name: glyph.plain() for name, glyph in seated(game.legend, game.n_players).items()},
        "frames": frames,
    }
