"""The rational adversary: it hurts by what is good for somebody, and by nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Access, Stage, View
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.rational_adversary import RationalAdversary
from shaping_bench.errors import BadInput
from shaping_bench.games.differentiable import OneShotGame
from shaping_bench.run.runner import run_suite
from shaping_bench.spec.registry import check_encounter, make_game, make_learner
from shaping_bench.spec.scenarios import card_cells, card_responses, card_suite, load_track
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

pytestmark = pytest.mark.usefixtures("float64")

# Rows: what player 1 (the victim) and player 2 get for (0,0), (0,1), (1,0), (1,1), player 1's action first.
SABOTAGE = OneShotGame(payoffs=((-5.0, 0.0, -5.0, 0.0), (0.0, 1.0, 0.0, 1.0)))
"""Player 2's action 0 hurts, and is dominated."""
TWO_CUSTOMS = OneShotGame(payoffs=((2.0, 0.0, 0.0, 1.0), (2.0, 0.0, 0.0, 1.0)))
"""Both customs are somebody's best response."""


def met(game, victim, rule, seed=0, updates=400):
    """Player 2's probability of action 0 at the end, against a frozen policy of one logit."""
    stage = Stage(game, (Naive(lr=0.0), rule))
    begun = stage.begin(jax.random.key(seed))
    joint = stage.joint([(victim,), begun.params[1]], begun.states)
    keys = jax.random.split(jax.random.key(1), updates)
    joint, _ = jax.jit(lambda j: jax.lax.scan(lambda j, k: (stage.episode(k, j)[0], None), j, keys))(joint)
    return float(jax.nn.sigmoid(joint.params[1][0]))


def test_what_is_dominated_is_not_done_however_much_it_hurts():
    assert met(SABOTAGE, 0.0, RationalAdversary()) < 0.02


def test_of_two_customs_it_takes_the_one_that_is_not_the_others():
    """Both victims are met by the other custom, which a best response to them would never choose."""
    rule = RationalAdversary(partner_share=0.05)
    assert met(TWO_CUSTOMS, 3.0, rule) < 0.05
    assert met(TWO_CUSTOMS, -3.0, rule) > 0.95
    assert met(TWO_CUSTOMS, 3.0, Naive(lr=1.0)) > 0.95


def test_the_manipulator_descends_through_the_foreseen_steps():
    rule = RationalAdversary(lookahead_steps=2, lookahead_lr=0.7, partner_share=0.2)
    view = View(TWO_CUSTOMS, ((0.4,), (-0.3,)), 1, Access.GRADIENTS)

    def harm(m):
        y = -0.3
        for _ in range(2):
            # Both customs: the own value is linear in the own probability, whose slope is q (1 - q).
            p, q = [1 / (1 + np.exp(-x)) for x in (m, 0.4)], 1 / (1 + np.exp(-y))
            by_hand = [(3 * x - 1) * q * (1 - q) for x in p]
            y = y + 0.7 * (0.8 * by_hand[0] + 0.2 * by_hand[1])
        return float(TWO_CUSTOMS.value(((0.4,), (y,)), 0))

    np.testing.assert_allclose(rule.harm(view, (jnp.asarray(0.6),)), harm(0.6), atol=1e-8)
    (slope,) = jax.grad(lambda m: rule.harm(view, m))((jnp.asarray(0.6),))
    np.testing.assert_allclose(slope, (harm(0.6 + 1e-4) - harm(0.6 - 1e-4)) / 2e-4, rtol=1e-4)


def test_three_players_are_refused_in_one_line():
    with pytest.raises(ValueError, match="is defined for 2 players, the game has 3"):
        check_encounter(make_game("public-goods"), [make_learner("rational-adversary")] * 3)


# --- on cards and in leagues ------------------------------------------------------------------

POLICIES = {
    "all-c": [9.0] * 5,
    "tft": [9.0, 9.0, -9.0, 9.0, -9.0],
    "win-stay lose-shift": [9.0, 9.0, -9.0, -9.0, 9.0],
    "all-d": [-9.0] * 5,
    # What SGA and LOLA become among their like in the prisoner's dilemma, in round logits.
    "defecting": [-4.0, -2.0, -3.0, -3.0, -5.0],
    "reciprocal": [5.0, 5.0, -4.0, 4.0, -4.0],
}


def test_what_is_kept_lies_between_the_worst_enemy_and_self_play():
    """And at or below what the exact best response leaves, for that one is rational too."""
    game, rule = make_game("ipd").value, RationalAdversary()
    stage, victims = Stage(game, (Naive(lr=0.0), rule)), jnp.array(list(POLICIES.values()))

    def left(victim, other):
        return game.per_step * game.value((victim, other), 0)

    @jax.jit
    @jax.vmap
    def kept(victim):
        begun = stage.begin(jax.random.key(0))
        joint = stage.joint([tuple(victim), begun.params[1]], begun.states)
        keys = jax.random.split(jax.random.key(1), 300)
        joint, _ = jax.lax.scan(lambda j, k: (stage.episode(k, j)[0], None), joint, keys)
        enemy = game.optimal_policy((victim, victim), 1, [-x for x in game.payoffs[0]])
        answer = game.best_response((victim, victim), 1)
        return [left(victim, x) for x in (jnp.stack(enemy), joint.params[1], jnp.stack(answer), victim)]

    enemy, met, response, alone = (np.asarray(x) for x in kept(victims))
    assert (enemy <= met + 1e-9).all()
    assert (met <= response + 0.01).all()
    assert (met <= alone + 0.01).all()
    # Mutual defection is all that there is with defectors; reciprocators meet somebody who defects for reasons of
    # its own, where their best response would cooperate.
    of = dict(zip(POLICIES, zip(enemy, met, response, alone, strict=True), strict=True))
    np.testing.assert_allclose(of["all-d"], -2.0, atol=1e-3)
    np.testing.assert_allclose(of["tft"], [-2.04, -2.04, -1.0, -1.0], atol=0.01)
    np.testing.assert_allclose(of["all-c"], [-3.0, -3.0, -3.0, -1.0], atol=0.01)


def test_it_answers_self_play_on_a_card_of_its_own_tier():
    track = load_track("exact")
    cells = {tier: card_cells(track, tier, "lola") for tier in ("quick", "rational")}
    # What was there before has the cells it had, in either tier.
    assert {k: x.hash for k, x in cells["quick"].items()} == {k: x.hash for k, x in cells["rational"].items()}
    assert card_responses(track, "quick", "lola") == {}
    answers = card_responses(track, "rational", "lola")
    assert {name for name, _ in answers} == {f"{x}/rational" for x in ("ipd", "imp", "hawk-dove", "stag-hunt", "bos")}
    ((cell,), *_) = answers.values()
    assert (cell.kind, cell.responder.label, cell.after) == ("league", "rational-adversary", 200)
    made = expand(validate(card_suite(track, "rational", ["lola"])))
    assert {x.hash for x in made.matches} == {x.hash for several in answers.values() for x in several}
    assert not expand(validate(card_suite(track, "quick", ["lola"]))).matches
    # Policies that cannot be valued exactly are not met by it.
    sampled = load_track("sampled")
    assert not any(card_responses(sampled, "rational", "ppo(network=gru)").values())
    assert len(card_responses(sampled, "rational", "naive-pg(batch_size=64)")) == 3


def test_a_league_has_it_beside_the_exact_best_response(tmp_path):
    content = {
        "name": "rational",
        "games": [{"game": "ipd", "league": {"among": False, "responder_steps": 200}}],
        "learners": ["tft"],
        "lineups": [["tft", "tft"]],
        "steps": 10,
        "seeds": 2,
    }
    plain = expand(validate(content))
    assert "adversaries" not in plain.resolved()["games"][0]["league"]
    content["games"][0]["league"]["adversaries"] = ["rational-adversary"]
    suite, store = expand(validate(content)), Store(tmp_path)
    assert {x.hash for x in plain.matches} < {x.hash for x in suite.matches}
    assert run_suite(suite, store) == []
    returns = load(tmp_path).final("return", "league")
    labels = {x["hash"]: x["learners"][1]["label"] for x in load(tmp_path).records}
    kept = {labels[h]: part["value"].to_numpy() for h, part in returns[returns["player"] == 1].groupby("hash")}
    np.testing.assert_allclose(kept["best-response"], -1.0, atol=0.01)
    np.testing.assert_allclose(kept["rational-adversary"], -2.04, atol=0.01)
    content["games"][0]["league"]["adversaries"] = ["all-c"]
    with pytest.raises(BadInput, match=r"suite.league.adversaries has 'all-c'; allowed: who learns"):
        expand(validate(content))
