"""Populations that never learn: parts that do not meet, files that are what was meant."""

import hashlib

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.populations import MemoryOne, Stored
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
