"""Strategies that remember more than one round: what they do and earn, by formulas and by brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench import metrics
from shaping_bench.algorithms.automata import KINDS, STATES, Bot, Remembering, everybody
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.games import make
from shaping_bench.games.matrix import automata
from shaping_bench.run.encounter import run_encounter, valued_exactly
from shaping_bench.run.measure import measure
from shaping_bench.spec.registry import check_encounter, make_game, make_learner

IPD = make("ipd")
GAMMA = 0.96
TFT = np.array([40.0, 40.0, -40.0, 40.0, -40.0])


def test_memory_one_policies_as_automata_earn_what_the_game_says():
    rng = np.random.default_rng(0)
    params = [rng.normal(size=(7, 5)), rng.normal(size=(7, 5))]
    expected = metrics.evaluate(IPD, params)
    first, second = (automata.decoded(x) for x in params)
    occupancy = automata.occupancy(first, second, GAMMA)
    np.testing.assert_allclose(occupancy @ np.array(IPD.payoffs).T, expected["return"], atol=1e-12)
    np.testing.assert_allclose(occupancy[:, 0], expected["mutual_cooperation"][:, 0], atol=1e-12)
    for owner, automaton in enumerate((first, second)):
        answer = automata.best_response_value(automaton, (-1, -3, 0, -2), GAMMA)
        np.testing.assert_allclose(answer, expected["br_value"][:, owner], atol=1e-12)
    # What is discounted is what happens step by step.
    steps = automata.by_step(first, second, 1000)
    weights = (1 - GAMMA) * GAMMA ** np.arange(1000)
    np.testing.assert_allclose(np.tensordot(weights, steps, axes=1), occupancy, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "theirs", "own"),
    [
        # What the other does, and what the bot does in the same rounds.
        ("two-strike-grim", "DCCDCCC", "CCCCDDD"),
        ("two-strike-grim", "CDCCCCC", "CCCCCCC"),
        ("tit-for-two-tats", "DCDDCDC", "CCCCDCC"),
        ("flip", "CCCCCCC", "CCCDDDD"),
        ("corrigible", "DDDCDCC", "DDDCCDC"),
        ("corrigible", "CDCDCDD", "DDDDDDC"),
    ],
)
def test_what_bots_do(kind, theirs, own):
    rounds = list(zip(own, theirs, strict=True))
    seen = [0, *(1 + 2 * (a == "D") + (b == "D") for a, b in rounds[:-1])]
    policy, params = Remembering(STATES), jnp.asarray(everybody(kind)[0])
    said = policy.unroll(params, jnp.array(seen)[:, None])
    assert "".join("CD"[int(x)] for x in said.logits[:, 0].argmax(axis=-1)) == own
    assert np.abs(said.logits[:, 0, 0]).min() > 20.0


def test_what_bots_earn_by_formulas():
    bots = {kind: everybody(kind) for kind in KINDS}
    cooperator, defector = np.full((1, 5), 40.0), np.full((1, 5), -40.0)

    def earned(theta, kind, name="return"):
        return metrics.evaluate(IPD, [theta, bots[kind]], names=[name])[name][0]

    # Flip cooperates three times, then never; nothing that one does changes it.
    np.testing.assert_allclose(earned(cooperator, "flip"), [-(1 - GAMMA**3) - 3 * GAMMA**3, -(1 - GAMMA**3)], atol=1e-9)
    assert earned(cooperator, "flip", "br_value")[1] == pytest.approx(-2 * GAMMA**3)
    # One strike is free, the first is worth most at once.
    assert earned(TFT[None], "two-strike-grim", "br_value")[1] == pytest.approx(-GAMMA)
    # Defecting twice and for ever after, against two-strike grim.
    np.testing.assert_allclose(earned(defector, "two-strike-grim")[0], -2 * GAMMA**2, atol=1e-9)
    # Every other round: of two tats in a row there are none.
    assert earned(defector, "tit-for-two-tats", "br_value")[1] == pytest.approx(-GAMMA / (1 + GAMMA))
    # Three times defected, the corrigible one cooperates with whoever cooperates.
    assert earned(defector, "corrigible", "cooperation")[1] == pytest.approx((1 - GAMMA) * GAMMA**3, abs=1e-9)


def test_best_responses_are_the_best_of_all_deterministic_policies():
    rng = np.random.default_rng(1)
    states, rewards = 3, np.array([-1.0, -3.0, 0.0, -2.0])
    cooperate, follows = rng.random((1, states)), rng.integers(0, states, (1, states, 4))
    automaton = automata.Automaton(cooperate, follows)
    # A policy that knows the automaton's state is an automaton with the same states, read from the other seat.
    swapped = follows[:, :, [0, 2, 1, 3]]
    values = [
        automata.occupancy(automata.Automaton(np.array([choice], float), swapped), automaton, GAMMA)[0] @ rewards
        for choice in itertools.product((0.0, 1.0), repeat=states)
    ]
    assert automata.best_response_value(automaton, rewards, GAMMA)[0] == pytest.approx(max(values), abs=1e-12)


def test_who_learns_from_play_meets_bots_and_is_valued_exactly():
    game = make("ipd", horizon=20)
    rules = (NaivePG(batch_size=4), Bot())
    assert valued_exactly(game, rules)
    outcome = run_encounter(game, rules, num_seeds=16, num_updates=2, record_every=1)
    drawn = {tuple(x) for x in outcome.final[1]}
    assert drawn <= {tuple(np.float32(x)) for x in everybody("drawn")}
    assert len(drawn) > 2
    finals, curves = measure(game, rules, outcome)
    assert {"return", "cooperation", "br_value", "basin", "diverged"} <= set(finals["metric"])
    told = finals.pivot(index=["seed", "player"], columns="metric", values="value")
    assert (told["br_value"].xs(2, level="player") >= told["return"].xs(1, level="player") - 1e-9).all()
    assert curves["update"].nunique() == 3


def test_who_follows_exact_values_does_not_meet_them():
    with pytest.raises(Exception, match="network's policy"):
        check_encounter(make_game("ipd"), [make_learner("naive"), make_learner("bot(kind=flip)")])
    with pytest.raises(Exception, match="two players"):
        check_encounter(make_game("public-goods"), [make_learner("naive-pg"), *[make_learner("bot")] * 2])
    with pytest.raises(ValueError, match="at least 2"):
        automata.encoded(automata.Automaton(np.ones((1,)), np.zeros((1, 4))))


def test_a_policy_acts_as_it_is_unrolled():
    policy, params = Remembering(STATES), jnp.asarray(everybody("trembling-corrigible")[0])
    seen = jax.random.randint(jax.random.key(0), (30, 1), 1, 5).at[0].set(0)
    along = policy.unroll(params, seen).logits[:, 0]
    carry = policy.start()
    for t in range(30):
        carry, said = policy.step(params, carry, seen[t, 0], None)
        np.testing.assert_array_equal(said.logits, along[t])
