"""Policies that are shipped: from a cell's final policies to a name that ``reference(policy=NAME)`` plays.

A file of its own holds what acts, and no critic; ``policies.json`` beside it says which network that is, how it was
trained, and what it gets.
"""

import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from shaping_bench.algorithms.core.stage import started
from shaping_bench.algorithms.foreign import named_leaves
from shaping_bench.algorithms.parts.files import POLICIES, list_shipped, shipped
from shaping_bench.algorithms.parts.policies import NetworkPolicy
from shaping_bench.errors import BadInput
from shaping_bench.run.encounter import run_encounter
from shaping_bench.run.preparation import imagined_artifact
from shaping_bench.spec import registry

LAYERS = ("conv", "padding", "dense", "activation", "linear_last", "cell", "width")
"""What a network is made of, besides its heads."""

MET = ("itself", "all-c", "all-d")
"""Whom a shipped policy is measured against."""


def ship(
    name: str, cell: Path, *, seed: int, seat: int = 1, update: int | None = None, folder: Path = POLICIES
) -> dict[str, Any]:
    """Writes a policy under a name, and what is known of it.

    Args:
      name: that it is to have.
      cell: folder of the cell that trained it, with its policies.
      seed, seat: which of them; seats count from 1.
      update: of those that were kept on the way; the final ones by default.
      folder: where it is to stand.

    Returns:
      Its entry of ``policies.json``.

    Raises:
      BadInput: the name is taken, or the cell has no such policy, or it is no network.
    """
    known = shipped(folder)
    if name in known:
        raise BadInput(f"name is {name!r}, which is shipped already; allowed: another, as a name never changes")
    try:
        record = json.loads((cell / "cell.json").read_text())
    except OSError as error:
        raise BadInput(f"cell is {str(cell)!r}, which is no finished cell ({error.strerror})") from None
    game = registry.make_game({record["game"]["name"]: record["game"]["hyperparameters"]}).value
    said = record["learners"][seat - 1]
    named = registry.make_learner({said["name"]: said["hyperparameters"]}, game=record["game"]["name"])
    policy = named.value.policy(game, seat - 1)
    if not isinstance(policy, NetworkPolicy):
        raise BadInput(f"cell is of {named.text!r}, whose policy is no network; allowed: rules with networks")
    params = _policy_in(cell, named.value, game, seat=seat, seed=seed, update=update)
    network, encoding = policy.net.network, policy.net.encoding
    critics = [f"head_{head}" for head, _ in network.heads if head != "logits"]
    acting = {
        key: x for key, x in (params if policy.part is None else params[policy.part]).items() if key not in critics
    }
    path = folder / f"{name}.npz"
    folder.mkdir(parents=True, exist_ok=True)
    leaves = [np.asarray(x, np.float32) for x in jax.tree.leaves(acting)]
    arrays: dict[str, Any] = dict(zip(named_leaves(acting), leaves, strict=True))
    np.savez_compressed(path, **arrays)
    entry = {
        "rule": named.text,
        "game": registry.make_game({record["game"]["name"]: record["game"]["hyperparameters"]}).text,
        "updates": record["steps"] if update is None else update,
        "seed": seed,
        "seat": seat,
        "network": {key: getattr(network, key) for key in LAYERS},
        "encoding": encoding.kind,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **{key: record[key] for key in ("command", "git_commit", "versions", "device")},
        "seconds": round(sum(record["timings"].values()), 1),
        "written": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    list_shipped({**known, name: entry}, folder)
    return entry


def _policy_in(cell: Path, rule: Any, game: Any, *, seat: int, seed: int, update: int | None) -> Any:
    """Parameters of a policy of a cell."""
    path = cell / ("policies.npz" if update is None else "policies_along.npz")
    start = jax.eval_shape(
        lambda: started(rule, jax.random.key(0), game, seat - 1, imagined_artifact(rule, game, seat - 1))[0]
    )
    leaves, structure = jax.tree.flatten(start)
    try:
        with np.load(path) as file:
            at: tuple[Any, ...] = (seed,)
            if update is not None:
                at = (file["updates"].tolist().index(update), seed)
            stored = [file[f"player_{seat}.{k}"][at] for k in range(len(leaves))]
    except (OSError, KeyError, IndexError, ValueError) as error:
        raise BadInput(f"cell is {str(cell)!r}, which has no such policy ({error}); see {path.name}") from None
    return jax.tree.unflatten(structure, stored)


def measured(name: str, game: str, episodes: int = 4096, met: Sequence[str] = MET) -> Mapping[str, list[float]]:
    """What a shipped policy and whom it meets get per step, in its own seat first."""
    own = registry.make_learner(f"reference(policy={name})").value
    played = registry.make_game(game).value
    out = {}
    for other in met:
        rule = own if other == "itself" else registry.make_learner(other).value
        outcome = run_encounter(played, (own, rule), num_seeds=1, num_updates=0, episodes=episodes)
        out[other] = [round(float(x), 4) for x in outcome.played["return"][-1][0]]
    return out
