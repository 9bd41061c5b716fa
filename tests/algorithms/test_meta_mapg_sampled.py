"""Meta-PG and Meta-MAPG by play: their estimate against the exact derivative, and steps in encounters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import Stage
from shaping_bench.algorithms.lola import LOLA
from shaping_bench.algorithms.meta_mapg import MetaMAPG
from shaping_bench.algorithms.meta_mapg_sampled import MetaMAPGSampled
from shaping_bench.algorithms.naive import Naive
from shaping_bench.games import make

GAME = make("matrix", payoffs=((0.5, -1.5, 1.5, -0.5), (0.5, 1.5, -1.5, -0.5)), gamma=0.5, horizon=12, init_std=0.0)
PEER = Naive(lr=2.0)  # starts at even odds here
LEARNED = {"phi": tuple(jnp.array([0.8, 0.5, -0.5, 1.0, -1.0])), "step": jnp.array([1.0, 2.0])}
ROCK = make("rps", gamma=0.5, horizon=12, init_mean=0.5, init_std=0.0)
LEARNED_THERE = {
    "phi": tuple(jnp.asarray(np.random.default_rng(0).normal(size=30), jnp.float32)),
    "step": jnp.array([1.0, 2.0]),
}


@functools.partial(jax.jit, static_argnames=("cls", "switches"))
def slopes(cls, switches, key, game=GAME, learned=LEARNED):
    """Derivatives of a chain of two updates by initial logits and steps, by switches of its terms, side by side."""
    sizes = {"batch_size": 4000} if cls is MetaMAPGSampled else {}
    found = []
    for own, peer in switches:
        rule = cls(meta_steps=2, against=PEER, own_term=own, peer_term=peer, **sizes)
        slope = jax.grad(lambda x, rule=rule: rule.mean_return(key, x, PEER, game, 0))(learned)
        found.append(jnp.concatenate([jnp.stack(slope["phi"]), slope["step"]]))
    return jnp.stack(found)


@pytest.mark.parametrize(("game", "learned"), [(GAME, LEARNED), (ROCK, LEARNED_THERE)], ids=["dilemma", "rps"])
def test_estimates_have_slope_one_on_the_exact_derivatives(game, learned):
    """Of both terms and without the others'; horizon 12 at discount 1/2 leaves out 2e-4."""
    switches = ((True, True), (True, False))
    exact = slopes(MetaMAPG, switches, jax.random.key(0), game, learned)
    assert np.linalg.norm(exact[0] - exact[1]) > 0.3 * np.linalg.norm(exact[1])
    keys = jax.random.split(jax.random.key(1), 10)
    found = np.stack([slopes(MetaMAPGSampled, switches, key, game, learned) for key in keys])
    for got, want in zip(np.moveaxis(found, 1, 0), exact, strict=True):
        slope = got @ want / (want @ want)
        error = slope.std(ddof=1) / np.sqrt(len(keys))
        assert error < 0.05
        assert abs(slope.mean() - 1.0) < 0.1
        off = got.mean(axis=0) - want
        assert np.linalg.norm(off) < 0.2 * np.linalg.norm(want)


def test_in_play_the_steps_are_policy_gradients_by_the_learned_sizes():
    rule = MetaMAPGSampled(meta_steps=2, batch_size=4096)
    artifact = {"phi": LEARNED["phi"], "step": LEARNED["step"]}
    stage = Stage(GAME, (rule, Naive(lr=0.0)), artifacts=(artifact, None))

    @jax.jit
    def encounter(key):
        joint = stage.begin(key)

        def update(joint, key):
            after = stage.episode(key, joint)[0]
            exact = jax.grad(lambda x: GAME.value((x, joint.params[1]), 0))(joint.params[0])
            return after, (after.params[0] - joint.params[0], exact)

        return jax.lax.scan(update, joint, jax.random.split(key, 3))[1]

    moves, exact = encounter(jax.random.key(0))
    for move, slope, step in zip(moves, exact, (1.0, 2.0, 2.0), strict=True):
        np.testing.assert_allclose(move, step * slope, atol=0.1)


@pytest.mark.parametrize(
    ("rule", "game", "said"),
    [
        (MetaMAPGSampled(), make("coin-game"), "plays memory-one tables, which this game does not have"),
        (MetaMAPGSampled(against=LOLA()), GAME, "against=LOLA; allowed: who takes plain gradient steps"),
        (MetaMAPGSampled(against=Naive(optimiser="adam")), GAME, "against=Naive; allowed"),
    ],
)
def test_who_may_be_met_where(rule, game, said):
    with pytest.raises(ValueError, match=said):
        rule.check_game(game, 0)
