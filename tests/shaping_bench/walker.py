"""A learner whose preparation is a random walk: what it learned is easily checked."""

import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from shaping_bench.algorithms.core import Access, PreparedLearner, costs, field, pytree_dataclass


@pytree_dataclass
class Walker(PreparedLearner):
    """Plays where the walk of its preparation ended, plus the number of updates."""

    access: ClassVar[Access] = Access.ACTIONS
    source = "a test"

    num_steps: int = field(40, "steps of the walk", low=1, static=True)
    scale: float = field(1.0, "standard deviation of a step")

    @property
    def preparation_steps(self) -> int:
        return self.num_steps

    def prepare_init(self, key: Any, game: Any, player: int) -> Any:
        return {"at": jnp.zeros(game.sizes[player]), "taken": jnp.int32(0)}

    def prepare_step(self, key: Any, step: Any, carry: Any, game: Any, player: int) -> Any:
        with costs.repeated(2):
            costs.charge(evaluations=3, steps=5)
        at = carry["at"] + self.scale * jax.random.normal(key, carry["at"].shape)
        return {"at": at, "taken": carry["taken"] + 1}, {"height": at[0], "step": step}

    def artifact(self, carry: Any) -> Any:
        return carry["at"]

    def init(self, key: Any, game: Any, player: int, artifact: Any = None) -> Any:
        return jnp.zeros(game.sizes[player]) if artifact is None else artifact, ()

    def update(self, key: Any, state: Any, view: Any) -> Any:
        return tuple(x + 1.0 for x in view.artifact), state, {}


def preparation(seeds: int = 2, **hyperparameters: Any) -> Any:
    from shaping_bench.run.preparation import Preparation
    from shaping_bench.spec.registry import Named, make_game

    rule = Walker(**hyperparameters)
    given = {"num_steps": rule.num_steps, "scale": rule.scale}
    return Preparation(
        Named(name="walker", hyperparameters=given, value=rule), make_game("ipd"), 0, seeds, 7, "float32"
    )


if __name__ == "__main__":  # prepares slowly enough to be killed, saying every step
    from shaping_bench.run import devices
    from shaping_bench.run.artifacts import Artifacts

    devices.configure()

    def on_point(_: Any, done: int, __: Any) -> None:
        print(done, flush=True)
        time.sleep(0.05)

    Artifacts(Path(sys.argv[1]), on_point, checkpoint_seconds=0.0).prepared(preparation(num_steps=60))
