"""Policies that pay: an actor, and what it offers the others for what they do.

For games with payments (:mod:`shaping_bench.games.incentives`), whose actions are pairs of the game's own and an offer.
Parameters are ``{"actor": ..., "offers": ..., "exploration": ...}``: the weights of both networks, and the probability
with which the actor takes any action while it learns.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array, lax

from shaping_bench.algorithms.core.distributions import Categorical, Distribution, Normal, SquashedNormal
from shaping_bench.algorithms.core.learner import Learner
from shaping_bench.algorithms.core.play import Play
from shaping_bench.algorithms.core.policy import Policy
from shaping_bench.algorithms.core.trees import Tree, add
from shaping_bench.algorithms.parts.estimators import discounted_returns, played
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import Encoding, Net, encoding
from shaping_bench.games.base import Game
from shaping_bench.games.fields import field, pytree_dataclass
from shaping_bench.games.incentives import Channel

FILTERS = 6
"""Of the one convolution by which boards are seen."""

MOST_BENT = 6.0
"""Farthest that the mean of a drawn offer, before it is bent, gets from zero. Of amounts nearer to an edge than draws
around it are, rounding leaves no number to learn from: learned from what is left, means would run away for ever."""


@pytree_dataclass
class Paying(Distribution):
    """A choice, and the offer that is made beside it: one that is certain, or ``chance`` draws from a distribution."""

    action: Categorical = field(doc="of the game's own actions")
    offer: Any = field(doc="an array (..., answers, others), or a distribution of one")
    chance: bool = field(False, "whether it is a distribution", static=True)

    def sample(self, words: Array) -> tuple[Array, Array]:
        action = self.action.sample(words[..., 0])
        return action, self.offer.sample(words[..., 1:]) if self.chance else self.offer

    def log_prob(self, action: tuple[Array, Array]) -> Array:
        own = self.action.log_prob(action[0])
        return own + self.offer.log_prob(action[1]) if self.chance else own

    def entropy(self) -> Array:
        """Of the choice, as in the official code."""
        return self.action.entropy()

    def unmixed(self) -> "Paying":
        return Paying(action=self.action.unmixed(), offer=self.offer, chance=self.chance)  # type: ignore[call-arg]


@pytree_dataclass
class Gifts(Distribution):
    """A choice of an action and of whom to give a fixed amount, whatever the others do: logits
    ``(..., 2^others * actions)``, actions changing fastest, the first of the others next."""

    both: Categorical = field(doc="of the pairs")
    shape: tuple[int, int] = field(doc="of an offer: answers and others", static=True)
    amount: float = field(doc="that is given", static=True)

    @property
    def _choices(self) -> int:
        return self.both.logits.shape[-1] >> self.shape[1]

    def sample(self, words: Array) -> tuple[Array, Array]:
        pair = self.both.sample(words[..., 0])
        given = (pair // self._choices)[..., None] >> jnp.arange(self.shape[1])
        gifts = self.amount * (given & 1).astype(self.both.logits.dtype)
        offer = jnp.broadcast_to(gifts[..., None, :], (*gifts.shape[:-1], *self.shape))
        return pair % self._choices, offer

    def log_prob(self, action: tuple[Array, Array]) -> Array:
        given = (action[1][..., 0, :] > 0.5 * self.amount).astype(action[0].dtype)
        bits = jnp.sum(given << jnp.arange(self.shape[1], dtype=given.dtype), axis=-1)
        return self.both.log_prob(action[0] + self._choices * bits)

    def entropy(self) -> Array:
        return self.both.entropy()


class Shapes(NamedTuple):
    """What a giver needs to know of its seat.

    Attributes:
      answers: joint actions of the others, ``(answers, others)``.
      choices: actions of each of the others.
      own: the player's actions.
      most: that may be given.
    """

    answers: tuple[tuple[int, ...], ...]
    choices: tuple[int, ...]
    own: int
    most: float

    @property
    def offer(self) -> tuple[int, int]:
        return len(self.answers), len(self.choices)


@dataclasses.dataclass(frozen=True)
class Giver(Policy):
    """Acts by one network, and offers by another.

    Attributes:
      actor: of logits.
      offers: of what is offered, from what is seen and the others' actions, one-hot; None for who makes gifts or none.
      encoding: of what the second one sees.
      eye: by which that sees boards; None: it sees numbers.
      shapes: of the seat.
      manner: ``offers`` certain amounts, ``drawn`` ones, ``gifts`` whatever the others do, or ``nothing``.
      explores: whether it takes any action with the probability that is among its parameters.
    """

    actor: Net
    offers: Network | None
    encoding: Encoding
    eye: Network | None
    shapes: Shapes
    manner: str
    explores: bool = True

    @classmethod
    def of(
        cls, game: Channel, player: int, manner: str, hidden: tuple[int, ...], offer_hidden: tuple[int, ...]
    ) -> "Giver":
        """That of a seat, with layers of so many units."""
        others = game.others(player)
        shapes = Shapes(
            answers=game.answers(player),
            choices=tuple(game.choices(j) for j in others),
            own=game.choices(player),
            most=game.most,
        )
        seen = encoding(game, "planes" if len(game.observation_shape) == 3 else None, player)
        conv = (FILTERS,) if len(seen.shape) == 3 else ()
        logits = shapes.own << (len(others) if manner == "gifts" else 0)
        pays = manner in ("offers", "drawn")
        return cls(
            actor=Net(Network(heads=(("logits", logits),), conv=conv, dense=hidden), seen),
            offers=Network(heads=(), dense=offer_hidden) if pays else None,
            encoding=seen,
            eye=Network(heads=(), conv=conv, dense=offer_hidden[:1]) if pays and conv else None,
            shapes=shapes,
            manner=manner,
        )

    def init(self, key: Array) -> Tree:
        """Weights uniform by Glorot, biases zero; the last layer of offers has none, as in the official code."""
        keys = jax.random.split(key, 4)
        params = {"actor": glorot(keys[0], self.actor.init), "offers": (), "exploration": jnp.ones(())}
        if self.offers is not None:
            params["offers"] = glorot(keys[3], self._offer_weights)
        return params

    def _offer_weights(self, key: Array) -> Tree:
        assert self.offers is not None
        width = self.encoding.shape[0] if self.eye is None else self.eye.dense[-1]
        inputs = jnp.zeros((width + sum(self.shapes.choices),))
        return {
            "eye": () if self.eye is None else self.eye.init(key, (), jnp.zeros(self.encoding.shape))["params"],
            "inner": self.offers.init(key, (), inputs)["params"],
            "last": jnp.zeros((self.offers.dense[-1], len(self.shapes.choices))),
        }

    # acting

    def step(self, params: Tree, carry: Tree, observation: Array, state: Tree) -> tuple[Tree, Any]:
        del state
        return carry, self.unroll(params, observation)

    def unroll(self, params: Tree, observations: Array) -> Any:
        """Distributions ``(...)`` of observations ``(..., *observation_shape)``."""
        choice = self.choice(params, observations)
        if self.manner == "gifts":
            return Gifts(both=choice, shape=self.shapes.offer, amount=self.shapes.most)  # type: ignore[call-arg]
        if self.offers is None:
            offer = jnp.zeros((*choice.logits.shape[:-1], *self.shapes.offer), choice.logits.dtype)
            return Paying(action=choice, offer=offer)  # type: ignore[call-arg]
        seen = self._seen(params["offers"], observations)[..., None, :]
        table = self._one_hot(jnp.array(self.shapes.answers))
        offer = self._offered(params["offers"], seen, jnp.broadcast_to(table, (*seen.shape[:-2], *table.shape)))
        drawn = self.manner == "drawn"
        return Paying(action=choice, offer=self._drawn(offer, 2) if drawn else self._amount(offer), chance=drawn)  # type: ignore[call-arg]

    def choice(self, params: Tree, observations: Array) -> Categorical:
        """Of actions, or of pairs of actions and gifts; with exploration, if it explores."""
        heads = self.actor.network.act(self.actor.laid(params["actor"]), (), self.encoding(observations))[1]
        said = heads["logits"]
        if not self.explores:
            return Categorical(logits=said)  # type: ignore[call-arg]
        epsilon = lax.stop_gradient(params["exploration"])
        return Categorical(logits=jnp.log((1.0 - epsilon) * jax.nn.softmax(said) + epsilon / said.shape[-1]))  # type: ignore[call-arg]

    # what is offered

    def realised(self, weights: Tree, play: Play, player: int) -> Array:
        """What its network says of the payments that it has made, before it is bent: ``(T, B, others)``.

        Args:
          weights: of offers.
          play: that it took part in.
          player: its seat.
        """
        others = [j for j in range(play.game.n_players) if j != player]
        chosen = jnp.stack([play.actions(j)[0] for j in others], axis=-1)
        seen = self._seen(weights, play.observations(player, end=False))
        return self._offered(weights, seen, self._one_hot(chosen))

    def paid(self, weights: Tree, play: Play, player: int) -> Array:
        """What it pays for what the others have done, ``(T, B, others)``, as shares of the most."""
        return jax.nn.sigmoid(self.realised(weights, play, player))

    def log_density(self, weights: Tree, play: Play, player: int) -> Array:
        """Of what it has paid, ``(T, B)``, where offers are drawn; of what it has offered besides, nothing came."""
        return self._drawn(self.realised(weights, play, player), 1).log_prob(given(play, player))

    def _seen(self, weights: Tree, observations: Array) -> Array:
        seen = self.encoding(observations)
        if self.eye is None:
            return seen
        return self.eye.act(self.eye.laid(weights["eye"], self.encoding.shape), (), seen)[1]["features"]

    def _one_hot(self, answers: Array) -> Array:
        """Joint actions of the others ``(..., others)`` to ``(..., sum of their choices)``."""
        return jnp.concatenate([jax.nn.one_hot(answers[..., k], n) for k, n in enumerate(self.shapes.choices)], axis=-1)

    def _offered(self, weights: Tree, seen: Array, answers: Array) -> Array:
        assert self.offers is not None
        seen = jnp.broadcast_to(seen, (*answers.shape[:-1], seen.shape[-1]))
        inputs = jnp.concatenate([seen, answers.astype(seen.dtype)], axis=-1)
        return self.offers.act(self.offers.laid(weights["inner"]), (), inputs)[1]["features"] @ weights["last"]

    def _amount(self, said: Array) -> Array:
        return self.shapes.most * jax.nn.sigmoid(said)

    def _drawn(self, said: Array, ndim: int) -> SquashedNormal:
        """Normal numbers of standard deviation 1 around what is said, up to :data:`MOST_BENT`, bent."""
        mean = MOST_BENT * jnp.tanh(said / MOST_BENT)
        normal = Normal(mean=mean, log_std=jnp.zeros_like(said), ndim=ndim)  # type: ignore[call-arg]
        return SquashedNormal(normal=normal, low=0.0, high=self.shapes.most)  # type: ignore[call-arg]


def glorot(key: Array, init: Callable[[Array], Tree]) -> Tree:
    """Weights of the shapes that ``init`` makes: kernels uniform within ``sqrt(6 / (inputs + outputs))``, else zero."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(init, key))
    start = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [
            start(k, x.shape, jnp.float32) if x.ndim > 1 else jnp.zeros(x.shape)
            for k, x in zip(keys, leaves, strict=True)
        ],
    )


class GivingLearner(Learner):
    """Base of those who act and give by a :class:`Giver`, and explore less and less.

    It has no fields of its own: each learner declares them where they belong among its others.
    """

    views: ClassVar[frozenset[str]] = frozenset({"sampled"})

    exploration: float
    least_exploration: float
    exploration_step: float
    hidden: int
    last_hidden: int
    offer_hidden: int
    last_offer_hidden: int

    def check_game(self, game: Game, player: int) -> None:
        if not isinstance(game, Channel):
            raise ValueError(
                "pays others, for which this game has no way; allowed: escape-room, or a game with payments=minted"
            )

    def giver(self, game: Game, player: int, manner: str) -> Giver:
        """What acts and gives in that manner.

        Raises:
          ValueError: there are no payments in the game.
        """
        self.check_game(game, player)
        layers = (self.hidden, self.last_hidden), (self.offer_hidden, self.last_offer_hidden)
        return Giver.of(cast(Channel, game), player, manner, *layers)

    def valued_policy(self, game: Game, player: int) -> Giver:
        return dataclasses.replace(cast(Giver, self.policy(game, player)), explores=False)

    def init(self, key: Array, game: Game, player: int) -> tuple[Tree, Tree]:
        params = self.policy(game, player).init(key)
        return params | {"exploration": jnp.asarray(self.exploration, jnp.result_type(float))}, ()

    def explored_less(self, params: Tree) -> Tree:
        least = jnp.minimum(self.exploration, self.least_exploration)
        now = jnp.maximum(params["exploration"] - self.exploration_step, least)
        return params | {"exploration": now.astype(params["exploration"].dtype)}


def given(play: Play, player: int) -> Array:
    """What a player has given to each of the others, ``(T, B, others)``, zero where nothing is paid."""
    game = cast(Channel, play.game)
    held = game.answer([play.actions(j)[0] for j in range(game.n_players)], player)
    offer = play.actions(player)[1]
    holds = held[..., None, None] == jnp.arange(offer.shape[-2])[:, None]
    return jnp.sum(jnp.where(holds, offer, 0.0), axis=-2) * (game.payments != "none")


def objective(policy: Policy, params: Tree, play: Play, player: int, rewards: Array, entropy: Any) -> Array:
    """What REINFORCE ascends: ``sum_t (G_t log pi_t + entropy H_t)`` with discounted returns ``G_t`` and without a
    baseline, of an episode on average. Differentiable in the parameters and, through returns, in the rewards.

    Args:
      policy, params: of the player.
      play: that it took part in.
      player: its seat.
      rewards: that it learns from, ``(T, B)``.
      entropy: weight of the policy's entropy.
    """
    returns = discounted_returns(rewards, play.game.gamma, alive=play.alive)
    said = policy.unroll(params, play.observations(player, end=False))
    if isinstance(policy, Giver) and policy.manner == "drawn":
        log_probs = said.action.log_prob(play.actions(player)[0]) + policy.log_density(params["offers"], play, player)
    else:
        log_probs = said.log_prob(play.actions(player))
    return jnp.mean(jnp.sum(played(returns * log_probs + entropy * said.entropy(), play.alive), axis=0))


def reinforced(policy: Policy, params: Tree, play: Play, player: int, rewards: Array, *, entropy: Any, lr: Any) -> Tree:
    """The parameters after a step of length ``lr`` up :func:`objective`; differentiable as that is."""
    slope = jax.grad(lambda theta: objective(policy, theta, play, player, rewards, entropy))(params)
    return add(params, slope, lr)
