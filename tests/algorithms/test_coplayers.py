"""Co-players as values: words, learners and mixtures in ``against``; and what they cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import GradientLearner, costs
from shaping_bench.algorithms.core.coplayers import Mixture
from shaping_bench.algorithms.good_shepherd import GoodShepherd
from shaping_bench.algorithms.lola import LOLA, LOLAFull
from shaping_bench.algorithms.m_maml import MMAML
from shaping_bench.algorithms.meva import MeVa
from shaping_bench.algorithms.mfos import MFOS
from shaping_bench.algorithms.mfos_recurrent import MFOSRecurrent
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.algorithms.q_learning import NaiveQ
from shaping_bench.games import make
from shaping_bench.spec.registry import make_game, make_learner

CHICKEN = make("chicken-one-shot")
IPD = make("ipd")
COINS = make("coin-game", preset="mfos", episodes=1, horizon=4)
BOTH = Mixture(learners=("naive", LOLA(lr=0.5)), shares=(0.75, 0.25))


def prepared(rule, game=CHICKEN):
    """The end of one step of its preparation, and the info."""
    step = jax.jit(lambda: rule.prepare_step(jax.random.key(1), jnp.int32(0), start, game, 0))
    start = rule.prepare_init(jax.random.key(0), game, 0)
    return step()


RULES = {
    "mfos": lambda **x: MFOS(batch_size=8, hidden=8, meta_steps=3, episodes=2, **x),
    "ga": lambda **x: MFOS(
        optimiser="ga", population=4, hidden=8, opponents=4, test_size=4, meta_steps=3, episodes=2, **x
    ),
    "good-shepherd": lambda **x: GoodShepherd(population=4, opponents=4, meta_steps=3, **x),
    "m-maml": lambda **x: MMAML(batch_size=4, meta_steps=3, **x),
    "meva": lambda **x: MeVa(batch_size=4, hidden=8, quantiles=4, inner_steps=2, stride=2, lr=1.0, **x),
}


@pytest.mark.parametrize("name", RULES)
def test_a_word_and_the_learner_that_it_stands_for_are_the_same(name):
    word, learner = (prepared(RULES[name](against=x)) for x in ("naive", Naive(lr=1.0)))
    jax.tree.map(np.testing.assert_array_equal, word, learner)


@pytest.mark.parametrize("name", RULES)
def test_others_are_met_with_their_shares(name):
    alone, other, mixed = (prepared(RULES[name](against=x))[1] for x in ("naive", LOLA(lr=0.5), BOTH))
    for info in (alone, other, mixed):
        assert all(np.isfinite(x) for x in info.values())
    key = "other_return" if name == "meva" else "return"
    assert len({float(x[key]) for x in (alone, other, mixed)}) == 3


def test_games_are_divided_by_shares():
    assert BOTH.counts(8) == (6, 2)
    assert BOTH.counts(2) == (2, 0)
    thirds = Mixture(learners=("naive",) * 3, shares=(1 / 3,) * 3)
    assert thirds.counts(9) == (3, 3, 3)
    assert sum(thirds.counts(10)) == 10


def test_the_command_line_says_it():
    rule = make_learner("mfos(batch_size=8,against={naive:0.75,lola(lr=0.5):0.25})", game="ipd").value
    assert rule.coplayers().counts(8) == (6, 2)
    naive, lola = rule.coplayers().learners
    assert naive == Naive(lr=1.0)  # the word of the method
    assert lola == make_learner("lola(lr=0.5)", game="ipd").value
    assert make_learner("mfos(against=lola)").value.coplayers().learners == (LOLAFull(lr=1.0, lookahead_lr=1.0),)
    rule = make_learner("mfos(batch_size=8,against=lola(lr=0.5))", game="ipd").value
    assert rule.coplayers().learners == (make_learner("lola(lr=0.5)", game="ipd").value,)


class Twice(GradientLearner):
    """Steps along a direction that it remembers."""

    lr = 1.0

    def init(self, key, game, player):
        return game.init_params(key, player), jnp.zeros(1)

    def direction(self, view):
        return view.gradient()


@pytest.mark.parametrize(
    ("rule", "game", "said"),
    [
        (MFOS(against=PPO()), IPD, "against=PPO, which plays to learn; allowed: learners with the exact view"),
        (MFOS(against=MMAML()), IPD, "against=MMAML, which needs a preparation of its own"),
        (MFOS(against=MeVa()), make("tandem"), "logits"),
        (MFOS(batch_size=2, against=BOTH), IPD, "in 2 games: too few"),
        (GoodShepherd(against=Mixture(learners=("self", Naive()), shares=(0.5, 0.5))), IPD, "has against='self'"),
        (MeVa(against=Twice()), IPD, "against=Twice, which remembers something"),
        (MeVa(against=make_learner("tft").value), IPD, "against=TFT, which has no direction"),
        (MFOSRecurrent(against=Naive()), COINS, r"against=Naive, which plays the views \['exact'\]"),
        (MFOSRecurrent(against=NaiveQ()), COINS, "against=NaiveQ, which"),
    ],
)
def test_who_cannot_be_met_is_refused_in_one_line(rule, game, said):
    with pytest.raises(ValueError, match=said) as caught:
        rule.check_game(game, 0)
    assert "\n" not in str(caught.value)


def test_fixed_policies_are_met_like_any_other():
    rule = GoodShepherd(population=4, opponents=2, meta_steps=2, against=make_learner("all-d").value)
    _, info = prepared(rule, IPD)
    assert np.isfinite(info["return"])


def test_a_recurrent_policy_is_prepared_against_others_that_play():
    game = make_game("coin-game(preset=mfos,episodes=1)").value
    small = dict(batch_size=2, episodes=2, epochs=1, hidden=4)
    pg = make_learner("naive-pg(batch_size=6,network=gru,hidden=4)").value
    rule = MFOSRecurrent(against=Mixture(learners=("ppo", pg), shares=(0.75, 0.25)), **small)
    rule.check_game(game, 0)
    with costs.counting() as count:
        carry = jax.eval_shape(lambda: rule.prepare_init(jax.random.key(0), game, 0))
        jax.eval_shape(lambda c: rule.prepare_step(jax.random.key(0), jnp.int32(0), c, game, 0), carry)
    # As wide as the widest asks, whoever is drawn.
    assert count.steps == 2 * (0.75 * 2 + 0.25 * 6) * game.num_steps


def test_branches_count_with_their_probability():
    def update(x):
        def cheap():
            with costs.either(0.75):
                costs.charge(steps=4)
            return x

        def dear():
            with costs.either(0.25):
                costs.charge(steps=100, evaluations=3)
            return x

        return jax.lax.cond(x > 0, cheap, dear)

    with costs.counting() as count:
        jax.eval_shape(update, 1.0)
    assert count == costs.Costs(evaluations=1, steps=28)


def test_what_is_jitted_inside_is_charged_once_in_a_process():
    @jax.jit
    def inner(x):
        costs.charge(steps=5)
        return x

    counts = []
    for _ in range(2):
        with costs.counting() as count:
            jax.eval_shape(lambda x: inner(x), 1.0)
        counts.append(count.steps)
    # As documented: leave jit to the harness.
    assert counts == [5, 0]
