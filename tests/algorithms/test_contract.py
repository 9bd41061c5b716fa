"""What every registered learner must do, on every kind of game it can play.

A new learner is tested by being registered. The programs are small: one update of a few
seeds on a repeated game and on a scalar game; three players on the one-shot game.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from algorithms.base import GradientLearner, View
from algorithms.lola import ShapingLearner
from shaping_bench.encounter import run_encounter
from shaping_bench.registry import Named, algorithms, check_encounter, make_game, make_learner

THREE = "matrix-one-shot(payoffs=((1,2,0,-1,3,-2,1,0),(0,1,2,-1,1,1,-2,3),(2,0,1,1,-1,0,3,-2)))"
GAMES = ("ipd(gamma=0.8)", "ultimatum", THREE)
SYMMETRIC = "chicken(gamma=0.8)"


def playable(learner, game):
    try:
        check_encounter(game, [learner] * game.made.n_players)
    except ValueError:
        return False
    return True


def exact_learners():
    named = [make_learner(name) for name in sorted(algorithms())]
    return [x for x in named if "exact" in x.made.views and not x.made.needs_preparation]


CASES = [(x.name, g) for x in exact_learners() for g in GAMES if playable(x, make_game(g))]
LEARNING = [(name, g) for name, g in CASES if isinstance(make_learner(name).made, GradientLearner)]


@functools.cache
def program(learner_name, game_text):
    """One update of everybody, vmapped over seeds; hyperparameters and parameters are data."""
    game = make_game(game_text).made

    def one(rules, key, params):
        return [
            rule.update(key, rule.init(key, game, i)[1], View(game, params, i, rule.access, rules))
            for i, rule in enumerate(rules)
        ]

    return jax.jit(jax.vmap(one, in_axes=(None, 0, 0)))


def seeds_of(learner, game, num=3, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    params = tuple(jnp.asarray(rng.normal(size=(num, d)), dtype) for d in game.sizes)
    return jax.random.split(jax.random.key(0), num), params


@pytest.mark.parametrize(("name", "game_text"), CASES)
def test_an_update_is_finite_deterministic_and_keeps_shape_and_dtype(name, game_text):
    game, rule = make_game(game_text).made, make_learner(name).made
    keys, params = seeds_of(rule, game)
    step = program(name, game_text)
    rules = (rule,) * game.n_players
    first, again = step(rules, keys, params), step(rules, keys, params)
    for (theta, _, info), (same, _, _), before in zip(first, again, params, strict=True):
        got = np.stack(list(theta), axis=-1) if isinstance(theta, tuple) else np.asarray(theta)
        repeated = np.stack(list(same), axis=-1) if isinstance(same, tuple) else np.asarray(same)
        assert got.shape == before.shape
        assert got.dtype == before.dtype
        assert np.isfinite(got).all()
        np.testing.assert_array_equal(got, repeated)
        assert all(np.shape(x) == (3,) for x in info.values())


@pytest.mark.parametrize("name", [x.name for x in exact_learners()])
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_encounters_keep_precision_and_do_not_depend_on_the_number_of_seeds(name, precision):
    game = next(g for g in ("ipd(gamma=0.8)",) if playable(make_learner(name), make_game(g)))
    run = functools.partial(
        run_encounter,
        make_game(game).made,
        [make_learner(name).made] * 2,
        num_updates=2,
        seed=3,
        precision=precision,
    )
    few, many = run(num_seeds=2), run(num_seeds=5)
    for a, b in zip(few.params, many.params, strict=True):
        assert a.dtype == precision
        np.testing.assert_allclose(a, b[:, :2], rtol=1e-5 if precision == "float32" else 1e-12)
    assert not many.diverged.any()


@pytest.mark.parametrize("name", sorted({name for name, _ in LEARNING}))
def test_a_sweep_equals_a_loop(name):
    """All traced hyperparameters swept as lanes of one program give what separate runs give."""
    game, rule = make_game("ultimatum"), make_learner(name).made
    traced = [f.name for f in dataclasses.fields(rule) if not f.metadata["static"]]
    assert "lr" in traced
    settings = [{f: factor * getattr(rule, f) for f in traced} for factor in (0.0, 0.3, 0.9)]
    settings[0] = {f: x if f == "ridge" else 0.0 for f, x in settings[1].items()}  # a ridge is positive
    run = functools.partial(run_encounter, game.made, num_seeds=2, num_updates=3, precision="float64")
    swept = run([dataclasses.replace(rule, **{f: np.array([x[f] for x in settings]) for f in traced}), rule])
    for k, setting in enumerate(settings):
        alone = run([dataclasses.replace(rule, **setting), rule])
        for a, b in zip(swept.params, alone.params, strict=True):
            np.testing.assert_allclose(a[:, k], b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("name", "game_text"), LEARNING)
def test_a_zero_step_changes_nothing(name, game_text):
    game, rule = make_game(game_text).made, dataclasses.replace(make_learner(name).made, lr=0.0)
    keys, params = seeds_of(rule, game)
    for (theta, _, _), before in zip(
        program(name, game_text)((rule,) * game.n_players, keys, params), params, strict=True
    ):
        np.testing.assert_array_equal(theta, before)


@pytest.mark.parametrize(
    ("name", "game_text"), [c for c in LEARNING if isinstance(make_learner(c[0]).made, ShapingLearner)]
)
def test_without_lookahead_every_rule_is_naive(name, game_text):
    game, rule = make_game(game_text).made, dataclasses.replace(make_learner(name).made, lookahead_lr=0.0)
    keys, params = seeds_of(rule, game)
    got = program(name, game_text)((rule,) * game.n_players, keys, params)
    naive = program("naive", game_text)((make_learner("naive").made,) * game.n_players, keys, params)
    for (theta, _, _), (expected, _, _) in zip(got, naive, strict=True):
        np.testing.assert_allclose(theta, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted({name for name, _ in LEARNING}))
def test_exchanging_the_players_exchanges_the_updates(name):
    with jax.enable_x64(True):
        game, rule = make_game(SYMMETRIC).made, make_learner(name).made
        keys, (a, b) = seeds_of(rule, game, dtype=jnp.float64)
        step = program(name, SYMMETRIC)
        there, back = step((rule, rule), keys, (a, b)), step((rule, rule), keys, (b, a))
        scale = max(1.0, float(np.abs(there[0][0]).max()))
        np.testing.assert_allclose(there[0][0], back[1][0], rtol=1e-7, atol=1e-9 * scale)
        np.testing.assert_allclose(there[1][0], back[0][0], rtol=1e-7, atol=1e-9 * scale)
        # The same update in single precision; LSS inverts an ill-conditioned matrix.
        if name != "lss":
            with jax.enable_x64(False):
                keys, single = seeds_of(rule, game)
                rough = step((rule, rule), keys, single)
            for (theta, _, _), (exact, _, _), start in zip(rough, there, (a, b), strict=True):
                moved = np.abs(np.asarray(exact) - np.asarray(start)).max()
                assert np.abs(np.asarray(theta) - np.asarray(exact)).max() < 1e-4 * max(1.0, moved)


@pytest.mark.parametrize("name", sorted({name for name, _ in LEARNING}))
def test_arrays_and_tuples_of_scalars_give_the_same_update(name):
    game, rule = make_game("ultimatum").made, make_learner(name).made
    arrays = (jnp.array([0.3]), jnp.array([-0.8]))
    scalars = tuple(tuple(theta) for theta in arrays)
    for i in (0, 1):
        from_arrays, from_scalars = (
            rule.update(jax.random.key(0), (), View(game, p, i, rule.access, (rule, rule)))[0]
            for p in (arrays, scalars)
        )
        assert isinstance(from_scalars, tuple)
        np.testing.assert_allclose(jnp.stack(from_scalars), from_arrays, rtol=1e-5)


def test_the_registry_covers_what_the_cases_assume():
    assert len(CASES) > 30
    assert isinstance(make_learner("lola"), Named)
    assert {name for name, g in CASES if g == THREE} >= {"naive", "lola", "hola", "sos", "cgd", "lss"}
