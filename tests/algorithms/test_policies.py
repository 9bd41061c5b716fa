"""Networks agree with flax's own layers, acting agrees with unrolling, encodings say what they mean."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shaping_bench.algorithms.core import rollouts
from shaping_bench.algorithms.core.policy import Tabular, select
from shaping_bench.algorithms.parts.networks import Network
from shaping_bench.algorithms.parts.policies import (
    Exploring,
    Net,
    NetworkPolicy,
    actor,
    critic,
    encoding,
    net,
    resolved,
)
from shaping_bench.games import make

IPD, COIN = make("ipd"), make("coin-game")


def random_like(tree, seed=0, scale=0.4):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), tree)


def test_gru_is_flax_s():
    width, features = 5, 3
    network = Network(heads=(("logits", 2),), cell="gru", width=width)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(7, features)), jnp.float32)
    params = random_like(network.init(jax.random.key(0), network.start(), x[0])["params"])
    cell = nn.GRUCell(width)
    names = ("r", "z", "n")
    kernel, bias, recurrent = params["inputs"]["kernel"], params["inputs"]["bias"], params["recurrent"]
    theirs = {}
    for k, name in enumerate(names):
        columns = slice(k * width, (k + 1) * width)
        theirs[f"i{name}"] = {"kernel": kernel[:, columns], "bias": bias[columns]}
        theirs[f"h{name}"] = {"kernel": recurrent[:, columns]}
    theirs["hn"]["bias"] = params["candidate_bias"]
    head = params["head_logits"]
    carry = jnp.zeros(width)
    expected = []
    for row in x:
        carry, out = cell.apply({"params": theirs}, carry, row)
        expected.append(out @ head["kernel"] + head["bias"])
    got = network.apply({"params": params}, x[:, None], method="unroll")["logits"][:, 0]
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-5, atol=1e-6)


def test_lstm_is_flax_s():
    width, features = 4, 3
    network = Network(heads=(("value", 1),), cell="lstm", width=width)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, features)), jnp.float32)
    params = random_like(network.init(jax.random.key(0), network.start(), x[0])["params"])
    cell = nn.OptimizedLSTMCell(width)
    theirs = {}
    for k, name in enumerate("ifgo"):
        columns = slice(k * width, (k + 1) * width)
        theirs[f"i{name}"] = {"kernel": params["inputs"]["kernel"][:, columns]}
        theirs[f"h{name}"] = {
            "kernel": params["recurrent"][:, columns],
            "bias": params["inputs"]["bias"][columns],
        }
    carry = (jnp.zeros(width), jnp.zeros(width))
    expected = []
    for row in x:
        carry, out = cell.apply({"params": theirs}, carry, row)
        expected.append(out @ params["head_value"]["kernel"] + params["head_value"]["bias"])
    got = network.apply({"params": params}, x[:, None], method="unroll")["value"][:, 0]
    np.testing.assert_allclose(got, jnp.stack(expected), rtol=1e-5, atol=1e-6)


# The boards of up to SMALL_BOARD cells are one product each; others go by patches.
@pytest.mark.parametrize("board", [(3, 3), (2, 4), (5, 4)])
@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
def test_convolutions_are_flax_s(padding, board):
    network = Network(heads=(("logits", 2),), conv=(5, 3), padding=padding)
    planes = jnp.asarray(np.random.default_rng(1).normal(size=(2, 4, *board)), jnp.float32)
    params = random_like(network.init(jax.random.key(0), (), planes[0])["params"])
    hidden = jnp.moveaxis(planes, 1, -1)
    for k, sizes in enumerate([(4, 5), (5, 3)]):
        # A patch lists cells row by row, each with its channels: the order of flax's kernels.
        layer, conv = params[f"convolutions_{k}"], nn.Conv(sizes[1], (3, 3), padding=padding)
        theirs = {"kernel": layer["kernel"].reshape(3, 3, *sizes), "bias": layer["bias"]}
        hidden = nn.relu(conv.apply({"params": theirs}, hidden))
    hidden = hidden.reshape(2, -1)
    expected = hidden @ params["head_logits"]["kernel"] + params["head_logits"]["bias"]
    got = network.apply({"params": params}, (), planes)[1]["logits"]
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_recurrent_kernels_start_orthogonal():
    network = Network(heads=(("logits", 2),), cell="gru", width=32)
    recurrent = network.init(jax.random.key(3), network.start(), jnp.zeros(4))["params"]["recurrent"]
    for k in range(3):
        gate = recurrent[:, 32 * k : 32 * (k + 1)]
        np.testing.assert_allclose(gate.T @ gate, np.eye(32), atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "gru", "conv-gru", "conv-lstm"])
def test_acting_step_by_step_is_unrolling_at_once(name):
    policy = actor(COIN, name)
    params = random_like(policy.init(jax.random.key(0)), 2)
    seen = jnp.asarray(np.random.default_rng(3).integers(0, 2, size=(5, 3, 4, 3, 3)), jnp.float32)
    together = policy.unroll(params, seen).logits
    assert together.shape == (5, 3, 4)
    for b in range(3):
        carry = policy.start()
        for t in range(5):
            carry, acting = policy.step(params, carry, seen[t, b], None)
            np.testing.assert_allclose(acting.logits, together[t, b], rtol=2e-4, atol=1e-5)


def test_derivatives_through_time_are_those_of_the_steps():
    """First and second ones: that of the unrolled network is written by hand, the steps' is not."""
    policy = actor(COIN, "gru", hidden=5)
    params = random_like(policy.init(jax.random.key(0)), 2)
    seen = jnp.asarray(np.random.default_rng(3).integers(0, 2, size=(4, 3, 4, 3, 3)), jnp.float32)
    weights = jnp.asarray(np.random.default_rng(4).normal(size=(4, 3, 4)), jnp.float32)
    towards = random_like(params, 5)

    def at_once(params):
        return jnp.sum(weights * jnp.square(policy.unroll(params, seen).logits))

    def step_by_step(params):
        carry, total = jnp.zeros((3, 5)), 0.0
        for t in range(4):
            carry, acting = jax.vmap(policy.step, in_axes=(None, 0, 0, None))(params, carry, seen[t], None)
            total += jnp.sum(weights[t] * jnp.square(acting.logits))
        return total

    def second(value):
        def slope(params):
            along = jax.tree.map(lambda x, y: jnp.sum(x * y), jax.grad(value)(params), towards)
            return sum(jax.tree.leaves(along))

        return jax.grad(slope)

    for derivative in (jax.grad, second):
        got, expected = derivative(at_once)(params), derivative(step_by_step)(params)
        for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4 * float(jnp.max(jnp.abs(y))))


def test_tables_select_states_and_their_gradient_counts_visits():
    theta = jnp.arange(5.0)
    seen = jnp.array([[0, 1], [4, 4]])
    np.testing.assert_array_equal(select(theta, seen), [[0.0, 1.0], [4.0, 4.0]])
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(select(x, seen)))(theta), [1, 1, 0, 0, 2])
    np.testing.assert_array_equal(Tabular(5).unroll(theta, seen).logits[..., 1], np.zeros((2, 2)))
    np.testing.assert_array_equal(Tabular(5).unroll(tuple(theta), seen).logits, Tabular(5).unroll(theta, seen).logits)


def test_encodings():
    states = jnp.arange(5)
    np.testing.assert_array_equal(encoding(IPD)(states), np.eye(5))
    # Own C, own D, other's C, other's D after start, CC, CD, DC, DD.
    moves = [[0, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]
    np.testing.assert_array_equal(encoding(IPD, "moves")(states), moves)
    assert encoding(COIN).shape == (36,)
    assert encoding(COIN, "planes").shape == (4, 3, 3)
    with pytest.raises(ValueError, match="no encoding 'states'"):
        encoding(COIN, "states")


def test_networks_by_name():
    assert resolved(IPD, "auto", "gru") == "tabular"
    assert resolved(COIN, "auto", "gru") == "gru"
    with pytest.raises(ValueError, match="needs observations in planes"):
        resolved(IPD, "conv-gru", "gru")
    with pytest.raises(ValueError, match="network='tabular'"):
        resolved(COIN, "tabular", "gru")
    values = critic(COIN, "gru", hidden=7)
    params = values.init(jax.random.key(0))
    assert params["recurrent"].shape == (7, 21)
    assert values.unroll(params, jnp.zeros((5, 2, 4, 3, 3))).shape == (5, 2)
    np.testing.assert_array_equal(critic(IPD, "tabular").unroll(jnp.arange(5.0), jnp.array([[3]])), [[3.0]])


def test_the_clock_is_the_raw_time():
    network = Network(heads=(("value", 1),))
    timed = Net(network, encoding(IPD), clock=True)
    params = jax.tree.map(jnp.zeros_like, timed.init(jax.random.key(0)))
    params["head_value"]["kernel"] = params["head_value"]["kernel"].at[-1].set(1.0)
    got = timed.unroll(params, jnp.zeros((4, 2), jnp.int32))["value"][..., 0]
    np.testing.assert_array_equal(got, [[0, 0], [1, 1], [2, 2], [3, 3]])


def test_exploring_mixes_with_the_uniform_policy():
    policy = Exploring(Tabular(5), 0.2)
    theta = jnp.array([3.0, -1.0, 0.0, 40.0, -40.0])
    p = jax.nn.softmax(policy.unroll(theta, jnp.arange(5)[:, None]).logits)[:, 0, 0]
    np.testing.assert_allclose(p, 0.8 * jax.nn.sigmoid(theta) + 0.1, rtol=1e-6)
    _, acting = policy.step(theta, (), jnp.array(0), None)
    np.testing.assert_allclose(jax.nn.softmax(acting.logits)[0], p[0], rtol=1e-6)


def test_parameters_may_be_a_part_of_the_player_s():
    inner = net(COIN, "mlp", (("logits", 4),), 6)
    policy, bare = (NetworkPolicy(inner, COIN.action_space(0), part) for part in ("actor", None))
    params = policy.init(jax.random.key(0))
    assert set(params) == {"actor"}
    seen = jnp.ones((2, 1, 4, 3, 3))
    np.testing.assert_array_equal(policy.unroll(params, seen).logits, bare.unroll(params["actor"], seen).logits)


def test_play_keeps_what_was_said_without_exploration():
    policy = actor(COIN, "gru", hidden=5)
    params = random_like(policy.init(jax.random.key(0)), 2, scale=1.0)
    groups = jax.tree.map(lambda x: jnp.stack([x, 2.0 * x]), params)
    play = rollouts.rollout(
        jax.random.key(1),
        COIN,
        [policy, Exploring(policy, 0.5)],
        [params, groups],
        4,
        num_steps=6,
        groups=(0, 2),
        said_by=(1,),
    )
    seen = rollouts.observations(COIN, play, 1)[:-1]
    expected = [
        policy.unroll(jax.tree.map(lambda x, k=k: x[k], groups), seen[:, 2 * k : 2 * k + 2]).logits for k in (0, 1)
    ]
    assert list(play.said) == [1]
    np.testing.assert_allclose(play.said[1].logits, jnp.concatenate(expected, axis=1), rtol=1e-4, atol=1e-5)
