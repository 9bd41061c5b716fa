"""Rules and games with one fault each, which the conformance kit must find, and their honest twins.

A twin is what the fault was added to. Exact ones play games of one number per player only, sampled
ones memory-one policies only, which keeps the kit short.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.algorithms.core import (
    Access,
    GradientLearner,
    Learner,
    PreparedLearner,
    costs,
    field,
    pytree_dataclass,
    trees,
)
from shaping_bench.games.base import Game
from shaping_bench.games.grids.board import Board, Piece
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.games.spaces import Box, Discrete, Product

PRISONERS = ((-1.0, -3.0, 0.0, -2.0), (-1.0, 0.0, -3.0, -2.0))

# --- exact rules --------------------------------------------------------------------------


@pytree_dataclass
class Ascent(GradientLearner):
    """``d = grad V``, with an average of past directions that is only reported."""

    source = "tests"

    def check_game(self, game, player):
        if set(game.sizes) != {1}:
            raise ValueError("plays games of one number per player")

    def init(self, key, game, player):
        return game.init_params(key, player), {"average": jnp.zeros((), jnp.result_type(float))}

    def direction(self, view):
        return view.gradient()

    def update(self, key, state, view):
        params, _, info = super().update(key, (), view)
        average = 0.5 * state["average"] + 0.5 * trees.dot(view.own, view.own)
        return params, {"average": average}, info


@pytree_dataclass
class Noisy(Ascent):
    """``d = grad V + noise``."""

    def noise(self, key):
        return jax.random.normal(key)

    def update(self, key, state, view):
        step = trees.add(view.gradient(), trees.scale(self.noise(key), view.own))
        return trees.add(view.own, step, self.lr), state, {}


@pytree_dataclass
class ReusesItsKey(Noisy):
    """Draws twice from one key."""

    def noise(self, key):
        return jax.random.normal(key) * jax.random.uniform(key)


@pytree_dataclass
class MakesAKey(Noisy):
    """The same noise for all seeds."""

    def noise(self, key):
        return jax.random.normal(jax.random.key(7), (), jnp.float32)


@pytree_dataclass
class UsesNumPysRandomness(Noisy):
    """Noise drawn when the program is made, not when it runs."""

    def noise(self, key):
        return jnp.asarray(np.random.default_rng().normal(), jnp.result_type(float))


@pytree_dataclass
class PeeksAtParameters(Ascent):
    """Declares 'actions', and reads the other's parameters from a private attribute."""

    access = Access.ACTIONS

    def direction(self, view):
        return view._params[view.others[0]]


@pytree_dataclass
class PeeksAtTheRule(Ascent):
    """Declares 'gradients', and reads the other's step size."""

    def direction(self, view):
        return trees.scale(view._learners[view.others[0]].lr, view.gradient())


@pytree_dataclass
class DeclaresTooLittle(Ascent):
    """Declares 'rewards', and asks for a gradient."""

    access = Access.REWARDS


@pytree_dataclass
class RemembersInPython(Ascent):
    """Counts its calls on the class."""

    calls = 0

    def direction(self, view):
        type(self).calls += 1
        return view.gradient()


@pytree_dataclass
class WritesIntoItsState(Ascent):
    """Changes the dictionary that it was given."""

    def update(self, key, state, view):
        params, new, info = super().update(key, state, view)
        state["average"] = new["average"]
        return params, state, info


@jax.custom_batching.custom_vmap
def scaled_by_batch(x):
    return x


@scaled_by_batch.def_vmap
def _scaled_by_batch(size, batched, x):
    return x / size, batched[0]


@jax.custom_batching.custom_vmap
def centred(x):
    return x


@centred.def_vmap
def _centred(size, batched, x):
    return (x - jnp.mean(x) if batched[0] else x), batched[0]


@pytree_dataclass
class DividesByTheBatch(Ascent):
    """Steps are the shorter the more seeds run side by side."""

    def direction(self, view):
        return jax.tree.map(scaled_by_batch, view.gradient())


@pytree_dataclass
class LeaksBetweenSeeds(Ascent):
    """Subtracts the mean over seeds."""

    def direction(self, view):
        return jax.tree.map(centred, view.gradient())


@pytree_dataclass
class AsksForDouble(Ascent):
    """Computes in float64 whatever the run's precision."""

    def direction(self, view):
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), view.gradient())


@pytree_dataclass
class ReturnsWeakTypes(Ascent):
    """Its state is a Python number after the first update."""

    def update(self, key, state, view):
        params, _, info = super().update(key, state, view)
        return params, {"average": jnp.asarray(0.5)}, info


@pytree_dataclass
class HasMomentumWithoutStep(Ascent):
    """Decays the parameters whatever the step size."""

    def update(self, key, state, view):
        params, state, info = super().update(key, state, view)
        return trees.scale(0.99, params), state, info


@pytree_dataclass
class KnowsItsSeat(Ascent):
    """The second player learns twice as fast."""

    def direction(self, view):
        return trees.scale(1.0 + view.player, view.gradient())


@pytree_dataclass
class AcceptsAnything(Ascent):
    """Its step size may be negative."""

    lr: float = field(1.0, "step size", step=True)


@pytree_dataclass
class DividesByZero(Ascent):
    """Normalises the distance from a point by itself."""

    def direction(self, view):
        return jax.tree.map(lambda x: (x - x) / (x - x), view.gradient())


@pytree_dataclass
class GrowsItsState(Ascent):
    """Remembers one number more with every update."""

    def update(self, key, state, view):
        params, _, info = super().update(key, {"average": jnp.zeros(())}, view)
        return params, {"average": jnp.zeros((2,))}, info


@pytree_dataclass
class RestructuresItsState(Ascent):
    """Remembers something else than it started with."""

    def update(self, key, state, view):
        params, state, info = super().update(key, state, view)
        return params, {**state, "count": jnp.zeros((), jnp.int32)}, info


@pytree_dataclass
class KeepsItsKey(Ascent):
    """Puts a random key into its state."""

    def init(self, key, game, player):
        params, state = super().init(key, game, player)
        return params, state | {"key": jax.random.fold_in(key, 1)}

    def update(self, key, state, view):
        params, new, info = super().update(key, state, view)
        return params, new | {"key": jax.random.fold_in(key, 2)}, info


@pytree_dataclass
class BranchesOnANumber(Ascent):
    """Asks in Python how large a swept number is."""

    def direction(self, view):
        return view.gradient() if self.lr < 10.0 else trees.scale(0.1, view.gradient())


@pytree_dataclass
class ReportsAMetric(Ascent):
    """Calls what it reports by the name of a metric."""

    def update(self, key, state, view):
        params, state, _ = super().update(key, state, view)
        return params, state, {"return": jnp.zeros((), jnp.result_type(float))}


@pytree_dataclass
class StatesASet(Ascent):
    """A fact that cannot be stored."""

    def facts(self, game):
        return {**super().facts(game), "partners": {"naive"}}


@pytree_dataclass
class StatesOtherwiseEachTime(Ascent):
    """Its facts say how often they were asked for."""

    asked = itertools.count()

    def facts(self, game):
        return {**super().facts(game), "asked": next(self.asked)}


@pytree_dataclass
class StatesTooLittle(Ascent):
    """Its facts are not those that tables read."""

    def facts(self, game):
        return {"kind": "ascent"}


@pytree_dataclass
class StepsUndeclared(Ascent):
    """Does not say that its step size is one."""

    lr: float = field(1.0, "own step size", low=0.0)


@pytree_dataclass
class Unexplained(Ascent):
    """Does not say where it comes from."""

    source = ""


# --- rules that play ----------------------------------------------------------------------


@pytree_dataclass
class Player(Learner):
    """``theta <- theta + lr * mean_b [R_b grad log pi_b]``: REINFORCE without a baseline."""

    access = Access.ACTIONS
    views = frozenset({"sampled"})
    source = "Williams 1992"

    lr: float = field(0.1, "own step size", low=0.0, step=True)
    batch_size: int = field(64, "episodes per update", low=1, static=True)

    def rewards(self, play):
        return play.rewards()

    def play(self, key, view):
        return view.play(self.batch_size)

    def counted(self, log_probs, play):
        return log_probs if play.alive is None else jnp.where(play.alive[:-1], log_probs, 0.0)

    def update(self, key, state, view):
        play = self.play(key, view)
        returns = jnp.sum(self.rewards(play), axis=0)

        def surrogate(theta):
            log_probs = view.policy.unroll(theta, play.observations()[:-1]).log_prob(play.actions())
            return jnp.mean(returns * jnp.sum(self.counted(log_probs, play), axis=0))

        return trees.add(view.own, jax.grad(surrogate)(view.own), self.lr), state, {}

    def check_game(self, game, player):
        if not game.memory_one:
            raise ValueError("plays memory-one policies")


@pytree_dataclass
class PeeksAtRewards(Player):
    """Declares 'actions', and reads the other's rewards off the trajectory."""

    def rewards(self, play):
        return jnp.sum(play._trajectory.rewards, axis=-1)


@pytree_dataclass
class LearnsNothing(Player):
    """Plays, and looks at none of it."""

    def update(self, key, state, view):
        self.play(key, view)
        return trees.scale(1.0 + self.lr, view.own), state, {}


@pytree_dataclass
class LearnsAfterTheEnd(Player):
    """Praises what it did after the end of an episode for what was earned before."""

    def counted(self, log_probs, play):
        return log_probs


@pytree_dataclass
class KnowsOneOther(Player):
    """Enters games of any number of players, and thinks that they have two."""

    def rewards(self, play):
        (other,) = (i for i in range(play.game.n_players) if i != play.player)
        return play.rewards() + 0.0 * play.actions(other)


# --- rules that prepare -------------------------------------------------------------------


@pytree_dataclass
class Prepared(PreparedLearner, Ascent):
    """Plays towards a mean that it has estimated beforehand."""

    source = "tests"

    num_steps: int = field(5, "steps of preparation", low=1, static=True)

    @property
    def preparation_steps(self):
        return self.num_steps

    def prepare_init(self, key, game, player):
        return {"mean": 0.1 * jax.random.normal(key, dtype=jnp.result_type(float))}

    def noise(self, key):
        return jax.random.normal(key, dtype=jnp.result_type(float))

    def prepare_step(self, key, step, carry, game, player):
        costs.charge(evaluations=1)
        mean = 0.9 * carry["mean"] + 0.1 * self.noise(key)
        return {"mean": mean}, {"mean": mean}

    def init(self, key, game, player, artifact=None):
        return game.init_params(key, player), {"average": jnp.zeros((), jnp.result_type(float))}

    def direction(self, view):
        return jax.tree.map(lambda x: view.artifact["mean"] - x, view.own)


@pytree_dataclass
class IgnoresItsArtifact(Prepared):
    """Prepares something that it does not use."""

    def direction(self, view):
        return view.gradient()


@pytree_dataclass
class PreparesForFree(Prepared):
    """Charges nothing."""

    def prepare_step(self, key, step, carry, game, player):
        mean = 0.9 * carry["mean"] + 0.1 * self.noise(key)
        return {"mean": mean}, {"mean": mean}


@pytree_dataclass
class PreparesFromNumPy(Prepared):
    """Prepares from noise that is drawn when the program is made."""

    def noise(self, key):
        return jax.random.normal(key) + np.random.default_rng().normal()


@pytree_dataclass
class PreparesAlikeForAllSeeds(Prepared):
    """Starts and goes on without its keys."""

    def prepare_init(self, key, game, player):
        return {"mean": jnp.ones((), jnp.result_type(float))}

    def noise(self, key):
        return jnp.zeros((), jnp.result_type(float))


# --- games --------------------------------------------------------------------------------


@pytree_dataclass
class Chancy(RepeatedGame):
    """Episodes of the prisoner's dilemma in which good and bad years come to both."""

    views = frozenset({"sampled"})

    payoffs: tuple = field(PRISONERS, "rewards")
    horizon: int = field(30, "length of an episode", low=1, static=True)

    def chance(self, key):
        return 0.1 * jax.random.normal(key)

    def step(self, key, state, actions):
        seen, state, rewards, done, info = super().step(key, state, actions)
        return seen, state, rewards + self.chance(key).astype(rewards.dtype), done, info


@pytree_dataclass
class StepReusesItsKey(Chancy):
    """Two draws of one key."""

    def chance(self, key):
        return super().chance(key) + 0.1 * jax.random.uniform(key)


@pytree_dataclass
class StepMakesAKey(Chancy):
    """The same chance moves in all episodes."""

    def chance(self, key):
        return super().chance(jax.random.key(3))


@pytree_dataclass
class ChancyInBothViews(Chancy):
    """The same with its exact value: years are good as often as bad."""

    views = frozenset({"exact", "sampled"})


@pytree_dataclass
class ViewsDisagree(ChancyInBothViews):
    """Episodes pay the players one another's rewards."""

    def step(self, key, state, actions):
        seen, state, rewards, done, info = super().step(key, state, actions)
        return seen, state, rewards[::-1], done, info


@pytree_dataclass
class CountsInPython(Chancy):
    """Every call of step pays a little more."""

    calls = 0

    def chance(self, key):
        type(self).calls += 1
        return super().chance(key) + type(self).calls


@pytree_dataclass
class NeverEnds(Chancy):
    """done is never true."""

    def step(self, key, state, actions):
        seen, state, rewards, done, info = super().step(key, state, actions)
        return seen, state, rewards, done & False, info


@pytree_dataclass
class SeesOtherwise(Chancy):
    """observe shows the second player the first one's state."""

    def observe(self, state, player=None):
        seen = RepeatedGame.observe(self, state, 0)
        return seen if player is not None else jnp.stack([seen, seen])

    def step(self, key, state, actions):
        _, state, rewards, done, info = super().step(key, state, actions)
        true = [RepeatedGame.observe(self, state, player) for player in (0, 1)]
        return jnp.stack(true), state, rewards, done, info


@pytree_dataclass
class SeesOtherwiseAlone(Chancy):
    """observe for one seat shows the first player's state."""

    def observe(self, state, player=None):
        if player is not None:
            return RepeatedGame.observe(self, state, 0)
        return jnp.stack([RepeatedGame.observe(self, state, i) for i in (0, 1)])


@pytree_dataclass
class CutShort(Chancy):
    """Mutual defection is the end of it."""

    ends_early = True

    def step(self, key, state, actions):
        _, after, rewards, done, info = super().step(key, state, actions)
        over = (state.joint_action == 3) | (after.joint_action == 3)
        # After the end nothing moves, whatever is played.
        after = after._replace(joint_action=jnp.where(state.joint_action == 3, 3, after.joint_action))
        return self.observe(after), after, rewards, done | over, info


@pytree_dataclass
class EndsEarlyInSecret(CutShort):
    """Does not say that its episodes may end early."""

    ends_early = False


@pytree_dataclass
class EndsEarlyOrNever(CutShort):
    """Episodes without an early end have none."""

    def step(self, key, state, actions):
        seen, after, rewards, done, info = super().step(key, state, actions)
        return seen, after, rewards, done & False, info


@pytree_dataclass
class MiscountsItsActions(Chancy):
    """Offers one action where it has two."""

    def action_space(self, player):
        return Discrete(1)


@pytree_dataclass
class SeesBeyondItsStates(Chancy):
    """Observations are no indices of the states of its policies."""

    def observe(self, state, player=None):
        if player is None:
            return jnp.stack([self.observe(state, i) for i in (0, 1)])
        return RepeatedGame.observe(self, state, player) + 1


@pytree_dataclass
class Gifts(Game):
    """Both move (1 earns 1) and give away a part of a unit: what one gives, the other gets."""

    views = frozenset({"sampled"})

    gamma: float = field(0.9, "discount")
    horizon: int = field(5, "length of an episode", low=1, static=True)

    n_players = 2

    @property
    def num_steps(self):
        return self.horizon

    def action_space(self, player):
        return Product([Discrete(3), Box(0.0, 1.0)])

    def kept(self, gifts):
        return jnp.sqrt(1.0 - gifts)

    def reset(self, key):
        state = {"time": jnp.zeros((), jnp.int32), "gifts": jnp.zeros(2, jnp.result_type(float))}
        return self.observe(state), state

    def observe(self, state, player=None):
        seats = [{"time": state["time"], "own": state["gifts"][i], "other": state["gifts"][1 - i]} for i in (0, 1)]
        return tuple(seats) if player is None else seats[player]

    def step(self, key, state, actions):
        moves, gifts = (jnp.stack(x) for x in zip(*actions, strict=True))
        after = {"time": state["time"] + 1, "gifts": gifts}
        rewards = (moves == 1) + self.kept(gifts) + gifts[::-1]
        return self.observe(after), after, rewards, after["time"] >= self.horizon, {}


@pytree_dataclass
class GivesMoreThanItHas(Gifts):
    """Its actions reach beyond what its rewards are made for."""

    def action_space(self, player):
        return Product([Discrete(3), Box(0.0, 9.0)])


@pytree_dataclass
class TakesNoGifts(Gifts):
    """Declares a choice, and takes a choice and a number."""

    def action_space(self, player):
        return Discrete(3)

    n_actions = 3


@pytree_dataclass
class MisstatesItsObservations(Chancy):
    """Says that an observation is a vector."""

    @property
    def observation_shape(self):
        return (5,)


@pytree_dataclass
class CountsInSecret(Chancy):
    """Reports a count that it does not declare."""

    def step(self, key, state, actions):
        *out, info = super().step(key, state, actions)
        return (*out, {**info, "smiles": jnp.zeros(2)})


@pytree_dataclass
class DrawsWhatNobodyKnows(Chancy):
    """A piece on its board is not in the legend."""

    def board(self, state):
        return Board(rows=1, columns=1, pieces=[Piece("ghost", 0, 0)])


@pytree_dataclass
class DrawsItsOwnWay(Chancy):
    """Its board is a dictionary."""

    def board(self, state):
        return {"grid": 3}


@pytree_dataclass
class Duel(Game):
    """``V1 = a x - x^2 + b x y``, ``V2`` alike with the players exchanged."""

    pull: float = field(1.0, "a")
    gamma = 0.0

    @property
    def n_players(self):
        return 2

    @property
    def sizes(self):
        return (1, 1)

    @property
    def symmetric(self):
        return True

    def value(self, params, player):
        (x,), (y,) = params[player], params[1 - player]
        return self.pull * x - x * x + 0.5 * x * y


@pytree_dataclass
class LiesAboutSymmetry(Duel):
    """The second player gains a third more."""

    def value(self, params, player):
        return super().value(params, player) * (1.0 + player / 3)


@pytree_dataclass
class LiesAboutZeroSum(Duel):
    """Says that what one gains the other loses."""

    @property
    def zero_sum(self):
        return True


@pytree_dataclass
class StatesAnArray(Duel):
    """A fact that cannot be stored."""

    def facts(self):
        return {**super().facts(), "pull": jnp.asarray(1.0)}


@pytree_dataclass
class HidesAGradient(Duel):
    """Stops the gradient through the other's move."""

    def value(self, params, player):
        (x,), (y,) = params[player], params[1 - player]
        return self.pull * x - x * x + 0.5 * x * jax.lax.stop_gradient(y)


@pytree_dataclass
class LiesAboutItsBestResponse(Duel):
    """Answers with half of the best number."""

    def best_response(self, params, player):
        (y,) = params[1 - player]
        return (0.25 * (self.pull + 0.5 * y),)


LEARNERS = {
    "random keys are used once, and no others": (ReusesItsKey, MakesAKey),
    "update is a pure function": (UsesNumPysRandomness, RemembersInPython, WritesIntoItsState),
    "sees only what it declares": (PeeksAtParameters, PeeksAtTheRule, PeeksAtRewards),
    "compiles, with the access it declares": (DeclaresTooLittle, BranchesOnANumber),
    "seeds are independent of the batch": (DividesByTheBatch, LeaksBetweenSeeds),
    "precision is that of its parameters": (AsksForDouble, ReturnsWeakTypes),
    "a step size of zero is a no-op": (HasMomentumWithoutStep,),
    "symmetric seats": (KnowsItsSeat,),
    "hyperparameters are validated": (AcceptsAnything,),
    "finite": (DividesByZero,),
    "init and update keep shapes, structure and dtype": (GrowsItsState, RestructuresItsState),
    "state can be stored": (KeepsItsKey,),
    "names its source": (Unexplained,),
    "reports by names of its own": (ReportsAMetric,),
    "facts are JSON, and always the same": (StatesASet, StatesOtherwiseEachTime, StatesTooLittle),
    "a finite update among 3 players": (KnowsOneOther,),
    "learns nothing after the end of an episode": (LearnsAfterTheEnd,),
    "different under different keys": (LearnsNothing,),
    "the artifact matters": (IgnoresItsArtifact,),
    "preparation is priced": (PreparesForFree,),
    "preparation deterministic under a key": (PreparesFromNumPy,),
    "preparation different under different keys": (PreparesAlikeForAllSeeds,),
}
"""By the check that must find them."""

GAMES = {
    "sampled view: random keys are used once, and no others": (StepReusesItsKey, StepMakesAKey),
    "sampled view: agrees with the exact view": (ViewsDisagree,),
    "sampled view: step is a pure function": (CountsInPython,),
    "sampled view: episodes end when they should": (NeverEnds, EndsEarlyInSecret, EndsEarlyOrNever),
    "sampled view: observe agrees with step": (SeesOtherwise, SeesOtherwiseAlone),
    "sampled view: shapes, structure and dtypes": (MisstatesItsObservations, TakesNoGifts),
    "sampled view: actions and observations are as declared": (MiscountsItsActions, SeesBeyondItsStates),
    "sampled view: finite": (GivesMoreThanItHas,),
    "sampled view: counts what it declares": (CountsInSecret,),
    "sampled view: a board can be stored and drawn": (DrawsWhatNobodyKnows, DrawsItsOwnWay),
    "facts are JSON, and always the same": (StatesAnArray,),
    "symmetric as it says": (LiesAboutSymmetry,),
    "zero-sum as it says": (LiesAboutZeroSum,),
    "differentiable": (HidesAGradient,),
    "best response is one": (LiesAboutItsBestResponse,),
}

HONEST = (Ascent, Noisy, Player, Prepared, ChancyInBothViews, CutShort, Gifts, Duel)
