"""Policies by name: what is shipped plays as what was trained, and says how."""

import json

import jax
import numpy as np
import pytest

from shaping_bench.algorithms import foreign
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.parts import files
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.run.league import flattened
from shaping_bench.run.shipping import ship
from shaping_bench.spec import registry

COIN = make("coin-game")
RULE = PPO(hidden=4)


@pytest.fixture
def cell(tmp_path):
    """A cell of two seeds of PPO, as far as shipping reads it, and the policies in seat 1."""
    keys = jax.random.split(jax.random.key(0), 2)
    policies = [jax.vmap(lambda key, i=i: RULE.init(key, COIN, i)[0])(keys) for i in range(2)]
    folder = tmp_path / "cell"
    folder.mkdir()
    np.savez(folder / "policies.npz", **flattened(policies))
    along = {name: np.stack([0.0 * x, x]) for name, x in flattened(policies).items()}
    np.savez(folder / "policies_along.npz", updates=np.array([5, 10]), **along)
    game, learner = (registry.make_game("coin-game"), registry.make_learner("ppo(hidden=4)"))
    described = [{"name": x.name, "hyperparameters": x.hyperparameters} for x in (game, learner)]
    record = {"game": described[0], "learners": [described[1]] * 2, "steps": 20, "timings": {"run": 1.5}}
    record |= {"command": "shaping-bench encounter", "git_commit": "abc", "versions": {}, "device": {}}
    (folder / "cell.json").write_text(json.dumps(record))
    return folder, jax.tree.map(lambda x: x[1], policies[0])


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """Another folder of shipped policies."""
    monkeypatch.setattr(foreign, "POLICIES", tmp_path / "policies")
    return tmp_path / "policies"


def test_what_is_shipped_plays_as_what_was_trained(cell, shelf):
    folder, trained = cell
    entry = ship("little-1", folder, seed=1, folder=shelf)
    assert (entry["updates"], entry["seed"], entry["encoding"], entry["seconds"]) == (20, 1, "planes", 1.5)
    named = registry.make_learner("reference(policy=little-1)")
    assert named.text == "reference(policy=little-1)"
    assert registry.make_learner(named.text).identity() == named.identity()
    assert named.identity()["hyperparameters"] == {"policy": "little-1"}
    rule = named.value
    rule.check_game(COIN, 1)
    with np.load(shelf / "little-1.npz") as file:
        assert not [name for name in file.files if "value" in name]  # a critic does not act
    own, other = rule.init(jax.random.key(5), COIN, 0)[0], registry.make_learner("all-d").value
    policies = [rule.policy(COIN, 0), RULE.policy(COIN, 0)]
    plays = [
        rollout(jax.random.key(1), COIN, (policy, other.policy(COIN, 1)), (params, ()), batch_size=8)
        for policy, params in zip(policies, (own, trained), strict=True)
    ]
    np.testing.assert_array_equal(plays[0].actions, plays[1].actions)
    np.testing.assert_array_equal(plays[0].rewards, plays[1].rewards)


def test_policies_of_the_way_are_shipped_too_and_a_name_is_never_given_twice(cell, shelf):
    folder, _ = cell
    assert ship("early", folder, seed=0, seat=2, update=5, folder=shelf)["updates"] == 5
    params = registry.make_learner("reference(policy=early)").value.init(jax.random.key(0), COIN, 0)[0]
    assert all((np.asarray(x) == 0.0).all() for x in jax.tree.leaves(params))
    for change, said in (
        ({"name": "early"}, "shipped already"),
        ({"update": 7}, "no such policy"),
        ({"seed": 2}, "no such policy"),
        ({"cell": folder / "nowhere"}, "no finished cell"),
    ):
        asked = {"name": "other", "cell": folder, "seed": 0, **change}
        with pytest.raises(BadInput, match=said):
            ship(asked.pop("name"), asked.pop("cell"), folder=shelf, **asked)


def test_unknown_names_say_which_there_are(cell, shelf):
    ship("little-1", cell[0], seed=0, folder=shelf)
    for name, game in (("little-2", "coin-game"), ("little-1", "ipd")):
        rule = registry.make_learner(f"reference(policy={name})")
        with pytest.raises(BadInput, match="little-1"):
            registry.check_encounter(registry.make_game(game), (rule, rule))
    (shelf / "little-1.npz").write_bytes(b"something else")
    with pytest.raises(BadInput, match="sha256"):
        registry.check_encounter(
            registry.make_game("coin-game"), (registry.make_learner("reference(policy=little-1)"),) * 2
        )


def test_what_is_shipped_is_what_its_list_says():
    known = files.shipped()
    assert sorted(path.stem for path in files.POLICIES.glob("*.npz")) == sorted(known)
    for name, entry in known.items():
        registry.make_learner(f"reference(policy={name})").value.check_game(registry.make_game(entry["game"]).value, 0)
        assert {"itself", "all-c", "all-d"} <= set(entry["measured"])
