"""Checkpoints: where a run goes on after its process has ended, bit for bit as if it had not.

A run (an encounter's updates, a preparation's steps) is cut into calls of one compiled program, see
:mod:`shaping_bench.run.pace`. Between two calls it is a :class:`Moment`: arrays with seeds first,
which know nothing of devices or of how lanes are laid out. A moment in a file is a checkpoint; it is
replaced as a whole, so whenever a process dies there is one that can be read. It says whose it is,
by a hash of everything that decides the numbers, code and versions included; what is of another run,
or damaged, is told and left alone.
"""

import dataclasses
import hashlib
import json
import os
import time
import uuid
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from shaping_bench.errors import OutOfTime, StoreError
from shaping_bench.run import devices
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.lanes import Lanes
from shaping_bench.run.programs import Program
from shaping_bench.spec.identity import content_hash
from shaping_bench.spec.sources import source_hash
from shaping_bench.store import disk

if TYPE_CHECKING:
    from shaping_bench.run.preparation import Preparation
    from shaping_bench.spec.registry import Named

FORMAT = 1
"""Of the files. The first version's, which only preparations left, had none."""

SECONDS = 5.0
"""Least time between two checkpoints."""

SHARE = 0.02
"""Of its time a run spends this much on checkpoints, at most: large ones come less often."""

KEPT_DAYS, KEPT_BYTES = 30.0, 10 * 2**30
"""What :func:`prune` leaves."""

DECISIVE = ("shaping-bench", "jax", "jaxlib", "numpy")
"""Packages another version of which may make other sums."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """A run between two calls, of N lanes (seeds, times settings).

    Attributes:
      done: updates (or steps) so far.
      seconds: of computing that they took.
      leaves: of what lives on from one update to the next, ``(N, ...)``.
      updates: of the points recorded so far, ``(R,)``.
      records: what was recorded at them, by name, ``(R, N, ...)``.
      policy_updates: at which policies were kept on the way, ``(A,)``.
      policies: those policies, by name, ``(A, N, ...)``.
    """

    done: int
    seconds: float
    leaves: Sequence[np.ndarray]
    updates: np.ndarray
    records: Mapping[str, np.ndarray]
    policy_updates: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    policies: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def of_lanes(self, first: int, last: int) -> "Moment":
        """The same of some of the lanes, which share its seconds."""
        return dataclasses.replace(
            self,
            seconds=self.seconds * (last - first) / len(self.leaves[0]),
            leaves=[x[first:last] for x in self.leaves],
            records={name: x[:, first:last] for name, x in self.records.items()},
            policies={name: x[:, first:last] for name, x in self.policies.items()},
        )


def side_by_side(moments: Sequence[Moment]) -> Moment | None:
    """One moment of the lanes of several; None where they are of different updates."""
    first = moments[0]
    for other in moments[1:]:
        if (first.done, *map(list, (first.updates, first.policy_updates, first.records, first.policies))) != (
            other.done,
            *map(list, (other.updates, other.policy_updates, other.records, other.policies)),
        ):
            return None
    return dataclasses.replace(
        first,
        seconds=sum(x.seconds for x in moments),
        leaves=[np.concatenate(x) for x in zip(*(m.leaves for m in moments), strict=True)],
        records={name: np.concatenate([m.records[name] for m in moments], axis=1) for name in first.records},
        policies={name: np.concatenate([m.policies[name] for m in moments], axis=1) for name in first.policies},
    )


# --- what lives on, with seeds first ------------------------------------------------------


def gathered(tree: Any, lanes: Lanes) -> list[np.ndarray]:
    """Leaves of what lies in lanes, on the host, ``(N, ...)``."""
    plain = [jax.random.key_data(x) if _is_key(x) else x for x in jax.tree.leaves(tree)]
    return [lanes.join(np.asarray(x)) for x in jax.device_get(plain)]


def spread(leaves: Sequence[np.ndarray], like: Any, lanes: Lanes) -> Any:
    """The opposite: a tree like ``like``, whose leaves may be mere shapes, in lanes on the devices."""
    out = []
    for x, own in zip(leaves, jax.tree.leaves(like), strict=True):
        laid = lanes.split(x)
        out.append(jax.random.wrap_key_data(jnp.asarray(laid), impl=jax.random.key_impl(own)) if _is_key(own) else laid)
    return lanes.place(jax.tree.unflatten(jax.tree.structure(like), out))


def fits(moment: Moment, like: Any, count: int) -> bool:
    """Whether a moment is of this many lanes, and of a run in which such a tree lives on."""
    own = [
        jax.eval_shape(jax.random.key_data, x) if _is_key(x) else jax.ShapeDtypeStruct(x.shape, x.dtype)
        for x in jax.tree.leaves(like)
    ]
    return [(x.shape, x.dtype) for x in moment.leaves] == [((count, *x.shape[2:]), x.dtype) for x in own]


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


# --- files --------------------------------------------------------------------------------


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of what decides a run's numbers: what it is, and the versions of what computes it."""
    versions = {name: x for name, x in devices.versions().items() if name in DECISIVE}
    return content_hash({"format": FORMAT, "of": identity, "versions": versions})


def write(path: Path, moment: Moment, of: str) -> None:
    """Replaces a file by this moment, through to the disk: a reader finds the one before, or this one.

    Args:
      path: the file.
      moment: what to write.
      of: whose it is, a :func:`fingerprint`.

    Raises:
      OSError: it cannot be written; the one before is still there.
    """
    arrays = {
        "updates": moment.updates,
        "policy_updates": moment.policy_updates,
        **{f"leaf:{k}": x for k, x in enumerate(moment.leaves)},
        **{f"record:{name}": x for name, x in moment.records.items()},
        **{f"policy:{name}": x for name, x in moment.policies.items()},
    }
    # What numpy does not know itself, narrow floating points say, it would read back as raw bytes.
    foreign = {name: x.dtype.name for name, x in arrays.items() if x.dtype.kind == "V"}
    head = {"format": FORMAT, "of": of, "done": moment.done, "seconds": moment.seconds, "dtypes": foreign}
    draft = path.with_name(f"{path.name}-{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(draft, {"head": np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays})
        os.replace(draft, path)
        disk.sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, through to the disk."""
    with open(path, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, of: str) -> Moment | None:
    """The moment that a file holds; None where there is no file, and with a warning where it is of
    another run, or cannot be read."""
    why = ""
    try:
        with np.load(path) as file:
            head = json.loads(file["head"].tobytes())
            if (head["format"], head["of"]) != (FORMAT, of):
                why = "it was left by other code, versions or settings"
            else:
                arrays = {name: file[name] for name in file.files if name != "head"}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except KeyError:
        why = "it was left by another version"
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        why = f"it cannot be read ({error})"
    if why:
        warnings.warn(f"checkpoint {str(path)!r} is not used, {why}; begun anew", stacklevel=2)
        return None
    arrays |= {name: arrays[name].view(dtype) for name, dtype in head["dtypes"].items()}

    def named(kind: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(kind): x for name, x in arrays.items() if name.startswith(kind)}

    leaves = named("leaf:")
    return Moment(
        done=head["done"],
        seconds=head["seconds"],
        leaves=[leaves[str(k)] for k in range(len(leaves))],
        updates=arrays["updates"],
        records=named("record:"),
        policy_updates=arrays["policy_updates"],
        policies=named("policy:"),
    )


class Checkpoint:
    """The file that a run leaves while it goes on.

    Args:
      path: where it is; it need not be there.
      identity: whose it is: everything that decides the run's numbers, but for how long it runs.
      seconds: least time between two of them.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any], seconds: float = SECONDS) -> None:
        self.path, self.of, self.seconds = path, fingerprint(identity), seconds

    def save(self, moment: Moment) -> None:
        """Replaces it.

        Raises:
          StoreError: it cannot be written; the one before is still there.
        """
        try:
            write(self.path, moment, self.of)
        except OSError as error:
            raise StoreError(f"cannot write to {str(self.path.parent)!r}: {error.strerror or error}") from None

    def load(self) -> Moment | None:
        """See :func:`read`."""
        return read(self.path, self.of)

    def drop(self) -> None:
        """Removes it, and drafts of it that killed processes have left: what it was for is done."""
        for path in (self.path, *self.path.parent.glob(f"{self.path.name}-*")):
            path.unlink(missing_ok=True)


class Pauses:
    """What happens between two calls of a run: a checkpoint where one is due, the end where time is up.

    Args:
      what: is told of one that is stopped: ``"an encounter stopped at update"``.
      of: updates that there are.
      checkpoint: what to leave; None for nothing.
      deadline: when to stop; None for never.
    """

    def __init__(self, what: str, of: int, checkpoint: Checkpoint | None, deadline: Deadline | None) -> None:
        self.what, self.of, self.checkpoint, self.deadline = what, of, checkpoint, deadline
        self.first: int | None = None
        self.cost = self.computed = 0.0

    def pause(self, done: int, seconds: float, moment: Callable[[], Moment]) -> None:
        """Between two calls, also before the first.

        Args:
          done: updates so far.
          seconds: that the last call took, 0 before the first.
          moment: yields what is to be kept.

        Raises:
          OutOfTime: the next call would not end in time.
          StoreError: time is up, and the checkpoint cannot be written.
        """
        self.first = done if self.first is None else self.first
        self.computed += seconds
        if self.deadline is not None and not self.deadline.allows(seconds + self.cost):
            self._stop(done, moment)
        if self.checkpoint is not None and self.computed > 0.0 and self._due(self.checkpoint):
            self._save(self.checkpoint, moment, last=False)

    def compiled(self, done: int, moment: Callable[[], Moment]) -> None:
        """After something was compiled for the next call, which may have taken long.

        Raises:
          OutOfTime, StoreError: as :meth:`pause`.
        """
        if self.deadline is not None and self.deadline.expired:
            self._stop(done, moment)

    def _stop(self, done: int, moment: Callable[[], Moment]) -> None:
        if self.checkpoint is not None and self.computed > 0.0:
            self._save(self.checkpoint, moment, last=True)
        raise OutOfTime(f"{self.what} {done} of {self.of}", further=done > (self.first or 0))

    def _due(self, checkpoint: Checkpoint) -> bool:
        return self.computed >= checkpoint.seconds * max(1.0, self.cost / (SHARE * SECONDS))

    def _save(self, checkpoint: Checkpoint, moment: Callable[[], Moment], last: bool) -> None:
        clock = time.perf_counter()
        try:
            checkpoint.save(moment())
        except StoreError as error:
            if last:
                raise
            warnings.warn(f"no checkpoint now: {error}", stacklevel=2)  # the run itself needs none
        self.cost, self.computed = time.perf_counter() - clock, 0.0


# --- whose they are -----------------------------------------------------------------------


def encounter_identity(
    game: "Named",
    learners: Sequence["Named"],
    protocol: Any,
    *,
    seeds: int,
    needs: Sequence["Preparation | None"] = (),
    init: Sequence[Any] | None = None,
) -> dict[str, Any]:
    """Everything that decides an encounter's numbers, but for the number of its updates.

    Args:
      game, learners: who plays what.
      protocol: whatever has ``seed``, ``record_every``, ``precision`` and ``episodes``.
      seeds: how many.
      needs: per seat the preparation that it needs.
      init: initial policy parameters, where they are given.
    """
    return {
        "kind": "encounter",
        "game": game.identity(),
        "learners": [x.identity() for x in learners],
        "protocol": [seeds, protocol.seed, protocol.record_every, protocol.precision, protocol.episodes],
        "preparations": [p and p.hash for p in needs],
        "init": init and [_digests(x) for x in init],
        "code": source_hash(game.value, *(x.value for x in learners), Program),
    }


def _digests(tree: Any) -> list[str]:
    arrays = [np.ascontiguousarray(x) for x in jax.tree.leaves(tree)]
    return [f"{x.dtype}{x.shape} {hashlib.sha256(x.tobytes()).hexdigest()}" for x in arrays]


@dataclasses.dataclass(frozen=True)
class Folder:
    """Where runs that belong to no results directory leave checkpoints, and their ends if they are asked to.

    Attributes:
      path: the folder.
      identity: of a run, whatever the number of its updates.
    """

    path: Path
    identity: Mapping[str, Any]

    def checkpoint(self, steps: int) -> Checkpoint:
        """That of the run with so many updates."""
        return Checkpoint(self.path / f"{self._name}-{steps}.npz", self.identity)

    def end(self, steps: int) -> Checkpoint:
        """Its end."""
        return Checkpoint(self.path / f"{self._name}-{steps}-end.npz", self.identity)

    def latest(self, steps: int) -> Moment | None:
        """The furthest that the run with at most so many updates can go on from; its own checkpoint apart."""
        moments = []
        for path in self.path.glob(f"{self._name}-*.npz"):
            length, _, end = path.stem.removeprefix(f"{self._name}-").partition("-")
            if length.isdigit() and int(length) < steps + (end == "end"):
                moments.append(read(path, fingerprint(self.identity)))
        return max((x for x in moments if x is not None), key=lambda x: x.done, default=None)

    @property
    def _name(self) -> str:
        return content_hash(self.identity)


def prune(folder: Path, *, days: float = KEPT_DAYS, most: int = KEPT_BYTES) -> None:
    """Removes from a folder of checkpoints of many runs what nobody is likely to go on from any more: files
    not written to for so many days, and of the others the oldest until they take at most so many bytes."""
    disk.prune(folder, days=days, most=most)
