"""Populations that never learn: parts that do not meet, files that are what was meant."""

import hashlib

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.core import Stage
from shaping_bench.algorithms.fixed import TFT
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.algorithms.populations import BOTS, Bots, DrawnNaive, DrawnNaivePG, MemoryOne, Persona, Stored
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.spec.registry import make_learner

IPD = make("ipd")


@pytest.mark.parametrize("kind", ["uniform", "arcsine", "pure"])
def test_parts_are_disjoint_and_together_everybody(kind):
    parts = [
        {tuple(x) for x in MemoryOne(split=split, kind=kind).logits(IPD, 0)}
        for split in ("train", "validation", "test")
    ]
    everybody = {tuple(x) for x in MemoryOne(kind=kind).logits(IPD, 0)}
    assert len(everybody) == (32 if kind == "pure" else 1000)
    assert sum(len(x) for x in parts) == len(everybody)
    assert set.union(*parts) == everybody


def test_a_longer_list_leaves_everybody_in_their_part_and_another_seed_is_another_list():
    short, long = (MemoryOne(split="train", size=size).logits(IPD, 0) for size in (50, 500))
    np.testing.assert_array_equal(long[: len(short)], short)
    assert not np.array_equal(MemoryOne(split="train", size=50, seed=1).logits(IPD, 0), short)


def test_seeds_of_an_encounter_draw_their_own_and_keep_it():
    rule = MemoryOne(split="test")
    result = run_encounter(IPD, (rule, make_learner("naive").value), num_seeds=20, num_updates=2, record_every=1)
    own = result.params[0]
    np.testing.assert_array_equal(own[0], own[-1])
    listed = {tuple(np.float32(x)) for x in rule.logits(IPD, 0)}
    assert {tuple(x) for x in own[0]} <= listed
    assert len({tuple(x) for x in own[0]}) > 10


def test_what_was_stored_is_met_if_it_is_what_was_meant(tmp_path):
    path = tmp_path / "policies.npz"
    policies = np.random.default_rng(0).normal(size=(20, 5))
    np.savez(path, player_1=policies, player_2=policies[:, :3])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    rule = make_learner(f"stored(path='{path}',sha256={digest[:12]!r},split=test)").value
    np.testing.assert_array_equal(rule.logits(IPD, 0), policies[[9, 19]])
    assert rule.init(jax.random.key(0), IPD, 0)[0].shape == (5,)
    for other, said in (
        (Stored(path=str(path), sha256="00000000"), f"begins with {digest[:16]}"),
        (Stored(path=str(path), sha256=digest, seat=2), "policies .3,. in .*; here they have 5 numbers"),
        (Stored(path=str(path), sha256=digest, seat=3), "no policies of player_3"),
        (Stored(path=str(tmp_path / "none"), sha256=digest), "No such file"),
    ):
        with pytest.raises(ValueError, match=said):
            other.check_game(IPD, 0)


def test_they_are_co_players():
    rule = make_learner("good-shepherd(population=4,opponents=4,meta_steps=2,against=memory-one(split=train))").value
    rule.check_game(IPD, 0)
    carry = rule.prepare_init(jax.random.key(0), IPD, 0)
    _, info = jax.jit(lambda c: rule.prepare_step(jax.random.key(1), 0, c, IPD, 0))(carry)
    assert np.isfinite(info["opponent_return"])
    assert rule.facts(IPD)["prepared_against"]["MemoryOne"]["split"] == "train"


def test_personas_are_in_their_range_drawn_per_seed_and_of_one_program():
    kind, reserved = Persona(low=0.5, high=1.0, split="test"), Persona(low=0.0, high=0.5, split="test")
    assert jax.tree.structure(kind) == jax.tree.structure(reserved)
    naive = Naive(lr=1.0)
    chances = []
    for rule in (kind, reserved):
        own = run_encounter(IPD, (naive, rule), num_seeds=20, num_updates=1).final[1]
        chances.append(1.0 / (1.0 + np.exp(-own)))
        listed = rule.logits(IPD, 1)
        assert all(np.isclose(listed, x, atol=1e-4).all(axis=1).any() for x in own)
        assert len({tuple(x) for x in own}) > 10
    assert (chances[0] > 0.5).all()
    assert (chances[1] < 0.5).all()
    # The same draws, elsewhere: what is drawn does not depend on the range.
    np.testing.assert_allclose(chances[0] - 0.5, chances[1], atol=1e-5)


def test_parts_of_personas_and_of_settings_do_not_meet():
    for rules in (
        [Persona(split=x).logits(IPD, 0) for x in ("train", "validation", "test")],
        [DrawnNaive(split=x).settings() for x in ("train", "validation", "test")],
    ):
        parts = [{tuple(x) for x in part} for part in rules]
        assert [len(x) for x in parts] == [800, 100, 100]
        assert len(set.union(*parts)) == 1000


def test_bots_are_those_with_names():
    own = run_encounter(IPD, (Naive(lr=1.0), Bots()), num_seeds=60, num_updates=1).final[1]
    met = {tuple(float(p) for p in np.round(x.astype(float), 6)) for x in 1.0 / (1.0 + np.exp(-own.astype(float)))}
    assert met == set(BOTS.values())


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_drawn_naive_is_naive_with_the_step_and_the_start_of_its_seed(optimiser):
    rule = DrawnNaive(lr=0.1, split="test", optimiser=optimiser)
    key, settings = jax.random.key(5), rule.settings()
    assert settings.min(axis=0) == pytest.approx([0.1, 1 / 3], rel=0.2)
    assert settings.max(axis=0) == pytest.approx([10.0, 3.0], rel=0.2)
    params, (step, inner) = rule.init(key, IPD, 0)
    (row,) = np.flatnonzero(np.isclose(settings[:, 0], float(step), rtol=1e-5))
    np.testing.assert_allclose(params, settings[row, 1] * IPD.init_params(key, 0), rtol=1e-5)
    others = (Naive(lr=0.1 * float(step), optimiser=optimiser), Naive(lr=1.0))
    stage = Stage(IPD, (rule, Naive(lr=1.0)))
    reference = Stage(IPD, others)
    joint = stage.joint([params, IPD.init_params(key, 1)], [(step, inner), ()])
    plain = reference.joint([params, IPD.init_params(key, 1)], [inner, ()])
    for k in range(4):
        joint, _, _ = stage.episode(jax.random.key(k), joint)
        plain, _, _ = reference.episode(jax.random.key(k), plain)
    np.testing.assert_allclose(np.array(joint.params), np.array(plain.params), rtol=1e-5)


def test_drawn_naive_pg_is_naive_pg_with_the_step_and_the_start_of_its_seed():
    rule, key = DrawnNaivePG(lr=0.5, batch_size=8, split="test"), jax.random.key(5)
    params, (step, inner) = rule.init(key, IPD, 0)
    plain, _ = NaivePG(batch_size=8).init(key, IPD, 0)
    (row,) = np.flatnonzero(np.isclose(rule.settings()[:, 0], float(step), rtol=1e-5))
    np.testing.assert_allclose(params, rule.settings()[row, 1] * plain, rtol=1e-5)
    ends = []
    for own, state in ((rule, (step, inner)), (NaivePG(lr=0.5 * float(step), batch_size=8), inner)):
        stage = Stage(IPD, (own, TFT()))
        joint, _, _ = stage.episode(key, stage.joint([params, TFT().init(key, IPD, 1)[0]], [state, ()]))
        ends.append(np.asarray(joint.params[0]))
    assert np.abs(ends[0] - params).max() > 0
    np.testing.assert_allclose(*ends, rtol=1e-5)
    with pytest.raises(ValueError, match="allowed: memory-one games"):
        rule.check_game(make("coin-game"), 0)
