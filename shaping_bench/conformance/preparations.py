"""Checks of what a learning rule learns before it meets anyone."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.algorithms.core import PreparedLearner, costs
from shaping_bench.conformance.findings import Finding, all_finite, attempts, near
from shaping_bench.conformance.program import fingerprint, key_reuse
from shaping_bench.games.base import Game


def check_preparation(rule: PreparedLearner, game: Game, name: str, run: bool) -> list[Finding]:
    seat = rule.prepared_seat(game, 0)

    def begun(seed: Any) -> Any:
        return rule.prepare_init(jax.random.fold_in(jax.random.key(0), seed), game, seat)

    def step_from(carry: Any, seed: Any, step: Any) -> Any:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), step)
        return rule.prepare_step(key, jnp.asarray(step, jnp.int32), carry, game, seat)

    def stepped(seed: Any) -> Any:
        """Two steps, as the harness loops over them: the second starts where the first ended."""

        def body(carry: Any, step: Any) -> Any:
            carry, info = step_from(carry, seed, step)
            return carry, dict(info)

        carry, info = jax.lax.scan(body, begun(seed), jnp.arange(2))
        return rule.artifact(begun(seed)), rule.artifact(carry), info

    together = jax.jit(jax.vmap(stepped))
    seeds = np.arange(2)
    memory: list[Any] = []

    def ran() -> Any:
        if not memory:
            memory.append(jax.device_get(together(seeds)))
        return memory[0]

    def contract() -> str | None:
        before = jax.eval_shape(begun, 0)
        after, info = jax.eval_shape(lambda: step_from(begun(0), 0, 0))
        if str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
            return "a step changes the structure of what it carries"
        for x, y in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            if (x.shape, x.dtype) != (y.shape, y.dtype):
                return f"a step changes {x.dtype}{x.shape} of what it carries to {y.dtype}{y.shape}"
            if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
                return "the carry holds a random key, which checkpoints cannot; steps are given theirs"
        if any(x.shape for x in info.values()):
            return "an info is not a scalar"
        return None if rule.preparation_steps > 0 else f"preparation_steps is {rule.preparation_steps}"

    def fixed() -> str | None:
        first, last = (
            [(x.shape, x.dtype) for x in jax.tree.leaves(y)]
            for y in (jax.eval_shape(lambda: rule.artifact(begun(0))), jax.eval_shape(stepped, 0)[1])
        )
        return None if first == last else "the artifact's shapes depend on how long was prepared"

    def finite() -> str | None:
        _, artifact, info = ran()
        return None if all_finite((artifact, info)) else "not finite after two steps"

    def deterministic() -> str | None:
        if not near(together(seeds), ran()):
            return "two equal preparations differ"
        programs = [jax.jit(lambda seed: stepped(seed)).trace(0) for _ in range(2)]
        same = fingerprint(programs[0]) == fingerprint(programs[1])
        return (
            None if same else "two equal preparations are two different programs: Python's or NumPy's random numbers?"
        )

    def random() -> str | None:
        rows = [jax.tree.map(lambda x, k=k: x[k], ran()[1]) for k in range(2)]
        return "two seeds prepare the same" if near(*rows) else None

    def learned() -> str | None:
        before, after, _ = ran()
        return "two steps leave the artifact as it was" if near(before, after) else None

    def keys() -> str | None:
        return key_reuse(stepped, (0,))

    def priced() -> str | None:
        with costs.counting() as count:
            jax.eval_shape(lambda: step_from(begun(0), 0, 0))  # a new function, so traced anew
        if count.evaluations or count.steps:
            return None
        return "a step is charged nothing; price imagined games in shaping_bench.algorithms.core.costs"

    checks = {
        "preparation keeps shapes, structure and dtypes": contract,
        "the artifact's shapes are fixed": fixed,
        "preparation uses random keys once": keys,
        "preparation is priced": priced,
    }
    if run:
        checks |= {
            "finite preparation": finite,
            "preparation deterministic under a key": deterministic,
            "preparation different under different keys": random,
            "preparation changes the artifact": learned,
        }
    return attempts(name, checks)
