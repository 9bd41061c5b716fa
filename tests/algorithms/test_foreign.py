"""Policies from elsewhere: what an agent in NumPy plays is what a table plays, files hold what is meant and no code."""

import hashlib
import sys

import jax
import numpy as np
import pytest

from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.core.rollouts import rollout
from shaping_bench.algorithms.fixed import TFT
from shaping_bench.algorithms.foreign import FilePolicy, ForeignAgent
from shaping_bench.errors import BadInput
from shaping_bench.games import make
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.runner import run_suite
from shaping_bench.spec import registry
from shaping_bench.spec.suite import expand, validate
from shaping_bench.store.results import load
from shaping_bench.store.store import Store

IPD, COIN = make("ipd"), make("coin-game")


@pytree_dataclass
class Echo(ForeignAgent):
    """Tit for tat in NumPy."""

    def answer(self, observations, memory):
        cooperates = np.isin(observations, (0, 1, 3)).astype(np.float32)  # at the start, after CC and DC
        return np.stack([cooperates, 1.0 - cooperates], axis=-1), memory


@pytree_dataclass
class Counting(ForeignAgent):
    """Plays action 0 twice in every episode, then action 1."""

    memory = (1,)

    def answer(self, observations, memory):
        early = (memory[:, 0] < 2).astype(np.float32)
        return np.stack([early, 1.0 - early], axis=-1), memory + 1.0


@pytree_dataclass
class Wrong(ForeignAgent):
    what: str = field("shape", "is wrong", choices=("shape", "sum", "memory"), static=True)

    def answer(self, observations, memory):
        said = np.full((len(memory), 3 if self.what == "shape" else 2), 0.5)
        return (
            (0.7 * said, memory) if self.what == "sum" else (said, memory[:, None] if self.what == "memory" else memory)
        )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def players(game, *learners):
    policies = [x.policy(game, i) for i, x in enumerate(learners)]
    return policies, [x.init(jax.random.key(i), game, i)[0] for i, x in enumerate(learners)]


def test_an_agent_in_numpy_plays_as_the_table_that_it_is():
    probing = registry.make_learner("memory-one").value
    key = jax.random.key(3)
    ours, theirs = (rollout(key, IPD, *players(IPD, x, probing), batch_size=64) for x in (TFT(), Echo()))
    assert 0.05 < np.mean(theirs.actions[..., 0]) < 0.95
    np.testing.assert_array_equal(ours.actions, theirs.actions)
    np.testing.assert_array_equal(ours.rewards, theirs.rewards)


def test_memory_lasts_an_episode():
    for seed in (0, 1):
        play = rollout(jax.random.key(seed), IPD, *players(IPD, Counting(), TFT()), batch_size=3)
        np.testing.assert_array_equal(play.actions[:4, :, 0], np.repeat([[0], [0], [1], [1]], 3, axis=1))


def test_who_learns_against_an_agent_learns_what_it_learns_against_its_table():
    learner = registry.make_learner("naive-pg(batch_size=32)").value
    ours, theirs = (
        run_encounter(IPD, [learner, x], num_seeds=2, num_updates=3, seed=0, episodes=16) for x in (TFT(), Echo())
    )
    np.testing.assert_array_equal(ours.final[0], theirs.final[0])
    assert np.abs(ours.final[0] - ours.params[0][:, 0]).max() > 0.0


@pytest.mark.parametrize(
    ("what", "said"),
    [("shape", r"shapes \(2, 3\) and \(2,\); allowed: \(2, 2\)"), ("sum", "no probabilities"), ("memory", r"\(2, 1\)")],
)
def test_answers_that_are_none_are_named_before_anything_runs(what, said):
    with pytest.raises(ValueError, match=f"is Wrong, which answers.*{said}"):
        Wrong(what=what).check_game(IPD, 0)


def test_games_that_are_not_played_are_not_for_agents():
    echo = registry.Named(name="echo", hyperparameters={}, value=Echo())
    with pytest.raises(BadInput, match="plays the views"):
        registry.check_encounter(registry.make_game("tandem"), [echo, echo])


# --- files ------------------------------------------------------------------------------------------


def network_file(path, policy, count):
    """``count`` policies of a network as somebody else would store them: arrays under the parameters' names."""
    trees = [policy.init(jax.random.key(k)) for k in range(count or 1)]
    named = {}
    for route, _ in jax.tree_util.tree_flatten_with_path(trees[0])[0]:
        keys = [k.key for k in route]
        leaves = []
        for tree in trees:
            for k in keys:
                tree = tree[k]
            leaves.append(np.asarray(tree))
        named["/".join(k for k in keys if k != "params")] = np.stack(leaves) if count else leaves[0]
    np.savez(path, **named)
    return trees


def test_a_networks_parameters_are_met_by_name(tmp_path):
    path = tmp_path / "theirs.npz"
    policy = FilePolicy(path="", sha256="", network="gru", hidden=8).policy(COIN, 0)
    (tree,) = network_file(path, policy, 0)
    rule = registry.make_learner(f"policy(path='{path}',sha256={digest(path)!r},network=gru,hidden=8)").value
    rule.check_game(COIN, 1)
    params, _ = rule.init(jax.random.key(5), COIN, 1)
    jax.tree.map(np.testing.assert_array_equal, params, tree)
    assert not rule.learns


def test_of_several_each_seed_draws_one(tmp_path):
    path = tmp_path / "theirs.npz"
    policy = FilePolicy(path="", sha256="", network="mlp", hidden=4).policy(COIN, 0)
    trees = network_file(path, policy, 3)
    rule = FilePolicy(path=str(path), sha256=digest(path), network="mlp", hidden=4)
    rule.check_game(COIN, 0)
    heads = [np.asarray(jax.tree.leaves(tree)[-1]).tobytes() for tree in trees]
    draw = jax.jit(jax.vmap(lambda key: jax.tree.leaves(rule.init(key, COIN, 0)[0])[-1]))
    drawn = [heads.index(np.asarray(x).tobytes()) for x in draw(jax.random.split(jax.random.key(0), 20))]
    assert set(drawn) == {0, 1, 2}


def test_a_file_that_is_not_what_is_meant_is_named(tmp_path):
    path, pickled, other = tmp_path / "theirs.npz", tmp_path / "objects.npz", tmp_path / "nan.npz"
    np.savez(path, table=np.zeros(5))
    np.savez(pickled, table=np.array([print], object))
    np.savez(other, table=np.full(5, np.nan))
    good = FilePolicy(path=str(path), sha256=digest(path))
    good.check_game(IPD, 0)
    for rule, game, said in (
        (FilePolicy(path=str(path), sha256="00000000"), IPD, f"begins with {digest(path)}"),
        (good, COIN, r"holds table \(5,\); allowed here: .*head_logits/kernel"),
        (FilePolicy(path=str(tmp_path / "none"), sha256="0"), IPD, "No such file"),
        (FilePolicy(path=str(pickled), sha256=digest(pickled)), IPD, "no .npz of plain arrays"),
        (FilePolicy(path=str(other), sha256=digest(other)), IPD, "not finite"),
    ):
        with pytest.raises(ValueError, match=said):
            rule.check_game(game, 0)


def test_final_policies_of_a_cell_and_an_agent_of_ones_own_meet_in_a_league(tmp_path, monkeypatch):
    (tmp_path / "my_agent.py").write_text(
        "import numpy as np\n"
        "from shaping_bench.algorithms.core import pytree_dataclass\n"
        "from shaping_bench.algorithms.foreign import ForeignAgent\n\n"
        "@pytree_dataclass\n"
        "class Nice(ForeignAgent):\n"
        "    def answer(self, observations, memory):\n"
        "        return np.tile(np.float32([1, 0]), (len(memory), 1)), memory\n"
    )
    (tmp_path / "pyproject.toml").write_text(
        "[project.entry-points.'shaping_bench.algorithms']\nnice = 'my_agent:Nice'\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    registry.algorithms.cache_clear()
    try:
        suite = {"name": "a", "games": ["ipd"], "learners": ["naive-pg(batch_size=16)", "nice"], "pairs": "self"}
        assert (
            run_suite(
                expand(validate({**suite, "seeds": 2, "steps": 2, "league": {"best_response": False}})), Store("a")
            )
            == []
        )
        results = load("a")
        labels = {x["hash"]: (x["kind"], *(y["name"] for y in x["learners"])) for x in results.records}
        (met,) = [k for k, label in labels.items() if label == ("league", "naive-pg", "nice")]
        shares = results.finals.query(f"hash == '{met}' and metric == 'cooperation'").set_index("player").value
        assert (shares.loc[2] == 1.0).all()
        assert (shares.loc[1] < 1.0).all()
        trained = next(k for k, label in labels.items() if label == ("encounter", "naive-pg", "naive-pg"))
        path = tmp_path / "a" / "cells" / trained / "policies.npz"
        theirs = f"policy(path='{path}',sha256={digest(path)!r},rule=naive-pg(batch_size=16))"
        learned, rule = np.load(path)["player_1"], registry.make_learner(theirs).value
        rule.check_game(IPD, 1)
        drawn = np.stack([rule.init(jax.random.key(k), IPD, 1)[0] for k in range(10)])
        assert {x.tobytes() for x in drawn.astype(learned.dtype)} == {x.tobytes() for x in learned}
    finally:
        registry.algorithms.cache_clear()
