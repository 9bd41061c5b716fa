"""Evolution strategies, by evosax, which *minimises*: it is told negative returns."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from shaping_bench.algorithms.core import Info, costs
from shaping_bench.algorithms.core.trees import Tree

if TYPE_CHECKING:
    from evosax.algorithms import Open_ES

CANDIDATES = 8
"""Candidates of an evolutionary search that are evaluated side by side."""


SHAPINGS = ("mean", "rank", "z-score")
"""How fitness enters: less its mean; as a rank from -0.5 to 0.5; less its mean, over its deviation."""


def open_es(
    population: int,
    solution: Tree,
    *,
    sigma: float,
    lr: float,
    shaping: str = "mean",
    decay: float = 0.0,
    b1: float = 0.99,
) -> "Open_ES":
    """OpenES as pax runs it for the games of Shaper: antithetic, fitness less its mean, Adam.

    Its deviation is constant for the first two generations where pax's decays from the first on.

    Args:
      population: candidates, an even number.
      solution: like what is searched.
      sigma, lr: deviation and step at first.
      shaping: one of :data:`SHAPINGS`.
      decay: what the mean square of a candidate's parameters costs, in units of fitness.
    """
    # It makes arrays as it is imported, which starts a device: not in a process that only plans. They
    # must be arrays also where this is traced.
    with jax.ensure_compile_time_eval():
        from evosax.algorithms import Open_ES

    def shaped(population: Any, fitness: Array, state: Any, params: Any) -> Array:
        del state, params
        if decay:
            fitness = fitness + decay * jnp.mean(jnp.square(population), axis=-1)
        if shaping == "rank":
            ranks = jax.scipy.stats.rankdata(fitness) - 1.0
            return ranks / (len(fitness) - 1) - 0.5
        centred = fitness - jnp.mean(fitness)
        return centred / (jnp.std(fitness) + 1e-10) if shaping == "z-score" else centred

    return Open_ES(
        population,
        solution,
        optimizer=optax.adam(optax.exponential_decay(lr, 1, 0.9999, end_value=min(lr, 0.001)), b1=b1),
        std_schedule=optax.exponential_decay(sigma, 1, 0.999, end_value=min(sigma, 0.01)),
        fitness_shaping_fn=shaped,
    )


def check_population(population: int) -> None:
    """Raises ``ValueError`` for one that cannot be antithetic."""
    if population % 2:
        raise ValueError(f"has population={population}; allowed: even numbers, for candidates come in pairs")


def as_arrays(tree: Tree) -> Tree:
    """evosax begins with Python numbers."""
    return jax.tree.map(jnp.asarray, tree)


def generation(
    key: Array,
    strategy: "Open_ES",
    state: Tree,
    trials: Callable[[Array, Tree], tuple[Array, Array]],
    together: int = CANDIDATES,
) -> tuple[Tree, Info]:
    """One generation; all candidates meet the same opponents.

    Args:
      key: its randomness.
      strategy, state: the search, and where it is.
      trials: from a key, the same for all, and a candidate to what it and its opponents earn.
      together: candidates that are evaluated side by side.
    """
    ask, trial, tell = jax.random.split(key, 3)
    candidates, state = strategy.ask(ask, state, strategy.default_params)
    with costs.repeated(strategy.population_size):
        own, other = lax.map(lambda candidate: trials(trial, candidate), candidates, batch_size=together)
    state, _ = strategy.tell(tell, candidates, -own, state, strategy.default_params)
    info = {"return": jnp.mean(own), "opponent_return": jnp.mean(other), "best_return": jnp.max(own)}
    return as_arrays(state), info
