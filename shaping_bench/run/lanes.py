"""Lanes: how the seeds and settings of an encounter lie in memory and over the devices.

A lane is one seed at one setting. Lanes are cut into tiles small enough to stay in cache, and
tiles are spread over all local devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from shaping_bench.algorithms.core import Learner
from shaping_bench.errors import BadInput
from shaping_bench.store import facts

TILE = 2048
"""Most lanes per tile on a CPU: the working set of one update then stays in a core's cache."""

WIDE_TILE = 2**20
"""The same on accelerators, which want all lanes at once."""

ENVIRONMENTS = 256
"""Most environments per tile on a CPU, where a lane plays in several: vectors long enough,
and matrix products whose weights are one seed's."""

SEATS = "seats"
"""Name of the axis of devices that share a lane."""

VECTOR = 16
"""Lanes per vector register, at most: float32 in 512 bits."""

SHARE = 256
"""Fewest lanes worth a CPU device of their own, where a lane is one number wide."""


class Lanes:
    """Lays N lanes out as ``(tiles, tile)``, tiles spread over the local devices.

    Args:
      count: of the lanes.
      width: environments in which each plays.
      seats: devices that share a lane, each for one seat's learning.

    Raises:
      BadInput: there are fewer devices than seats.
    """

    def __init__(self, count: int, width: int = 1, seats: int = 1) -> None:
        found = jax.local_devices()
        if len(found) < seats:
            raise BadInput(
                f"--seats-apart needs a device for each of {seats} seats, and there are {len(found)}; "
                "allowed: without it, or with JAX_NUM_CPU_DEVICES unset"
            )
        devices = found[: len(found) // seats][:count]
        on_cpus = devices[0].platform == "cpu"
        if width > 1 and on_cpus:
            # A lane that plays in many environments at once is as wide as they are many. Its products' last bits
            # depend on how many lanes share a tile, which so must not depend on the number of devices.
            tiles = -(-count // max(1, ENVIRONMENTS // width))
            self.tile = -(-count // tiles)
            # Nor is a whole tile of padding worth another device, unless it is one among many.
            devices = devices[: max(n for n in range(1, len(devices) + 1) if -tiles % n <= tiles // 8)]
            tiles = -(-tiles // len(devices))
        else:
            if on_cpus:
                devices = devices[: max(1, count // SHARE)]
            per_device = -(-count // len(devices))
            tiles = -(-per_device // (TILE if on_cpus else max(1, WIDE_TILE // width)))
            # Equal tiles, for the last one's padding is work too; whole vector registers, so that
            # no lane falls to the scalar code of a remainder, whatever the number of lanes.
            self.tile = -(-per_device // tiles)
            if width == 1:
                self.tile = VECTOR * -(-self.tile // VECTOR)
        self.count = count
        self.tiles = len(devices) * tiles
        axes = ("lanes", SEATS) if seats > 1 else ("lanes",)
        every = np.array(found[: len(devices) * seats]).reshape(len(devices), *(seats,) * (len(axes) - 1))
        self.mesh = Mesh(every, axes, axis_types=(AxisType.Auto,) * len(axes))

    def split(self, x: np.ndarray) -> np.ndarray:
        """``(N, ...)`` to ``(tiles, tile, ...)``; the padding repeats the last lane."""
        padding = [(0, self.tiles * self.tile - self.count)] + [(0, 0)] * (x.ndim - 1)
        return np.pad(x, padding, mode="edge").reshape(self.tiles, self.tile, *x.shape[1:])

    def join(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(-1, *x.shape[2:])[: self.count]

    def place(self, tree: Any) -> Any:
        return jax.device_put(tree, NamedSharding(self.mesh, P("lanes")))


def hold_weights(laned: Any) -> bool:
    """Whether arrays ``(tiles, tile, ...)`` hold weights of networks: what lies in a lane has more than the one axis
    of a table's coordinates."""
    return any(x.ndim > 3 for x in jax.tree.leaves(laned))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LanedArtifacts:
    """What the players' preparations yielded, each either one for all lanes or one per lane.

    One for all keeps its weights in cache, and makes matrix products of the lanes.
    """

    common: tuple[Any, ...]
    laned: tuple[Any, ...]

    @classmethod
    def laid(
        cls,
        learners: Sequence[Learner],
        artifacts: Sequence[Any],
        num_points: int,
        num_seeds: int,
        lanes: Lanes,
        dtype: Any,
    ) -> "LanedArtifacts":
        common: list[Any] = []
        laned: list[Any] = []

        def real(x: Any) -> np.ndarray:
            x = np.asarray(x)
            return x.astype(dtype) if np.issubdtype(x.dtype, np.floating) else x

        for player, (rule, artifact) in enumerate(zip(learners, artifacts, strict=True)):
            if rule.needs_preparation and artifact is None:
                raise ValueError(f"player {player + 1}'s learner needs the artifact of its preparation; none was given")
            leaves = jax.tree.leaves(artifact)
            count = len(leaves[0]) if leaves else 1
            if count == 1:
                common.append(jax.tree.map(lambda x: real(x)[0], artifact))
                laned.append(None)
                continue
            chosen = np.tile(shared_preparations(rule, player, num_seeds, count), num_points)
            common.append(None)
            laned.append(jax.tree.map(lambda x, chosen=chosen: lanes.split(real(x)[chosen]), artifact))
        return cls(tuple(common), tuple(laned))

    def of(self, laned: tuple[Any, ...]) -> tuple[Any, ...]:
        """Per player, given one lane's own."""
        return tuple(own if shared is None else shared for shared, own in zip(self.common, laned, strict=True))


def shared_preparations(rule: Learner, player: int, num_seeds: int, num_prepared: int) -> np.ndarray:
    """Which preparation serves each seed of an encounter, ``(S,)``; see ``store.facts``."""
    return facts.shared_preparations(getattr(rule, "prepared_jointly", True), player, num_seeds, num_prepared)
