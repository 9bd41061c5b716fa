"""Learners that do not learn: the fixed strategies of repeated two-action games, and the
exact best responder.

Strategies are probabilities of action 0 in the canonical order [start, CC, CD, DC, DD]
(own last action first), stored as saturated logits. With more than two players only the
unconditional ones are defined.
"""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from shaping_bench.algorithms.core import Access, Info, Learner, View, field, pytree_dataclass
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree
from shaping_bench.algorithms.parts.policies import Scripted
from shaping_bench.games.base import Game
from shaping_bench.games.matrix.repeated import SATURATED_LOGIT


def logits_of(probabilities: Any) -> Array:
    """Logits of probabilities, deterministic choices saturated. Works on traced values."""
    p = jnp.asarray(probabilities, jnp.result_type(float))
    inner = jnp.where((p > 0.0) & (p < 1.0), p, 0.5)
    return jnp.where(
        p >= 1.0, SATURATED_LOGIT, jnp.where(p <= 0.0, -SATURATED_LOGIT, jnp.log(inner) - jnp.log1p(-inner))
    )


class FixedStrategy(Learner):
    """Base of the strategies; subclasses give ``probabilities``."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"exact", "sampled"})
    learns: ClassVar[bool] = False
    two_players_only: ClassVar[bool] = True
    script: ClassVar[str] = ""
    """Its name among the scripts of games without memory-one policies, if they define it."""

    def _scripted(self, game: Game) -> bool:
        return not game.memory_one and self.script in game.scripts

    def policy(self, game: Game, player: int) -> Policy:
        return Scripted(game, self.script, player) if self._scripted(game) else super().policy(game, player)

    def probabilities(self, game: Game, player: int) -> Any:
        """Probability of action 0 in each state, ``(d_i,)``."""
        raise NotImplementedError

    def check_game(self, game: Game, player: int) -> None:
        if self._scripted(game):
            return
        if not game.memory_one:
            scripts = f", or a strategy this game defines: {', '.join(game.scripts)}" if game.scripts else ""
            raise ValueError(f"needs a repeated two-action game with memory-one policies{scripts}")
        if self.two_players_only and game.n_players != 2:
            raise ValueError(f"is defined for 2 players, the game has {game.n_players}")

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        del key
        if self._scripted(game):
            return (game.scripted_params(self.script, player) if "exact" in game.views else ()), ()
        return logits_of(
            jnp.stack([jnp.asarray(p, jnp.result_type(float)) for p in self.probabilities(game, player)])
        ), ()

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}


def _strategy(name: str, source: str, *probabilities: float, script: str = "") -> type[FixedStrategy]:
    """A strategy without hyperparameters; a single probability is played in every state."""
    unconditional = len(probabilities) == 1

    def table(self: FixedStrategy, game: Game, player: int) -> tuple[float, ...]:
        return probabilities * game.sizes[player] if unconditional else probabilities

    cls = type(
        name,
        (FixedStrategy,),
        {
            "__doc__": source,
            "source": source,
            "probabilities": table,
            "two_players_only": not unconditional,
            "script": script,
        },
    )
    return pytree_dataclass(cls)


AllC = _strategy("AllC", "Always action 0 (cooperate).", 1.0, script="all-c")
AllD = _strategy("AllD", "Always action 1 (defect).", 0.0, script="all-d")
Random = _strategy("Random", "All actions with equal probability.", 0.5, script="random")
TFT = _strategy(
    "TFT",
    "Tit for tat (Axelrod 1984): start with C, then repeat the opponent.",
    *(1.0, 1.0, 0.0, 1.0, 0.0),
    script="tft",
)
WSLS = _strategy("WSLS", "Win-stay, lose-shift (Nowak & Sigmund 1993).", 1.0, 1.0, 0.0, 0.0, 1.0)
Grim = _strategy("Grim", "Cooperate until the first defection of either player.", 1.0, 1.0, 0.0, 0.0, 0.0)


@pytree_dataclass
class GTFT(FixedStrategy):
    """Generous tit for tat: forgives a defection with a fixed probability.

    At discount 0.96 cooperation stays a best response only below 1 - c/(b gamma) = 0.479.
    """

    source = "Nowak & Sigmund 1992"

    generosity: float = field(0.3, "probability of cooperating after the opponent's defection", low=0.0, high=1.0)

    def probabilities(self, game: Game, player: int) -> tuple[Any, ...]:
        g = self.generosity
        return (1.0, 1.0, g, 1.0, g)


@pytree_dataclass
class ZDExtort(FixedStrategy):
    """Discounted zero-determinant extortion: forces ``s_own - P = chi (s_opp - P)``.

    ``gamma p = g + phi [(S_own - P) - chi (S_opp - P)] - (1 - gamma) p0`` with
    ``g = (1, 1, 0, 0)`` and ``p0 = 0``, P the own reward of mutual defection.
    """

    source = "Press & Dyson 2012; discounted: Hilbe, Traulsen, Sigmund 2015"

    chi: float = field(3.0, "extortion factor", low=1.0)
    phi: float = field(0.1, "scale; must leave every probability within [0, 1]", low=0.0, exclusive=True)

    def probabilities(self, game: Any, player: int) -> tuple[Any, ...]:
        frame = (0, 1, 2, 3) if player == 0 else (0, 2, 1, 3)  # joint action of each own state
        own, other = ([game.payoffs[i][k] for k in frame] for i in (player, 1 - player))
        base, base_other = own[3], other[3]
        after = [
            (g + self.phi * ((x - base) - self.chi * (y - base_other))) / game.gamma
            for g, x, y in zip((1.0, 1.0, 0.0, 0.0), own, other, strict=True)
        ]
        return (0.0, *after)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        table = np.array([float(p) for p in self.probabilities(game, player)])
        if (table < -1e-9).any() or (table > 1 + 1e-9).any():
            raise ValueError(
                f"chi={self.chi:g}, phi={self.phi:g} gives the probabilities {np.round(table, 4).tolist()} "
                "in this game; allowed: chi and phi that keep all of them in [0, 1]"
            )


@pytree_dataclass
class BestResponse(Learner):
    """Plays the exact best response to the others' current policies, at every update."""

    source = "exact dynamic programming; see shaping_bench.games.matrix.repeated"

    def check_game(self, game: Game, player: int) -> None:
        if not game.has_best_response:
            raise ValueError("needs a game with an exact best response")

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.best_response(), state, {}


@pytree_dataclass
class Frozen(Learner):
    """Plays the policy of another rule and never changes it: who meets others in a league."""

    access: ClassVar[Access] = Access.ACTIONS
    views: ClassVar[frozenset[str]] = frozenset({"sampled"})
    learns: ClassVar[bool] = False
    source = "the rule it plays for"

    rule: Learner = field(doc="whose policy is played")
    batch_size: int = field(32, "episodes it plays at once", static=True, small=16)

    def policy(self, game: Game, player: int) -> Policy:
        return self.rule.policy(game, player)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        return self.rule.init(key, game, player)[0], ()

    def update(self, key: Array, state: Tree, view: View) -> tuple[Tree, Tree, Info]:
        del key
        return view.own, state, {}
