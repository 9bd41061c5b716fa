"""A folder of artifacts: what preparations yielded, stored once and reused.

An artifact stands in it whole or not at all, under the hash of its preparation, with its curves
and what it cost.
"""

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from shaping_bench.errors import StoreError
from shaping_bench.run import checkpoints
from shaping_bench.run.checkpoints import Checkpoint
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.preparation import (
    OnPoint,
    Preparation,
    Prepared,
    checkpoint_identity,
    imagined_artifact,
    prepare,
)
from shaping_bench.store import disk
from shaping_bench.store.store import read_parquet, write_parquet


class Artifacts:
    """A folder of prepared artifacts.

    Args:
      folder: created when something is stored in it.
      shared: another folder, whose artifacts are taken over instead of preparing again, and which
        gets a copy of what is prepared here.
      on_point: told how a running preparation gets on.
      checkpoint_seconds: least time between checkpoints.
      deadline: when running preparations are to stop at a checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        on_point: OnPoint | None = None,
        checkpoint_seconds: float = checkpoints.SECONDS,
        shared: Path | None = None,
        deadline: Deadline | None = None,
    ) -> None:
        self.folder, self.shared, self.deadline = folder, shared, deadline
        self.on_point, self.checkpoint_seconds = on_point, checkpoint_seconds

    def __contains__(self, preparation: Preparation) -> bool:
        return (self.folder / preparation.hash).is_dir()

    def prepared(self, preparation: Preparation) -> Prepared:
        """The stored artifact, after running the preparation if it is not stored yet.

        Raises:
          OutOfTime: the deadline came first; the same call goes on.
          StoreError: it cannot be written.
        """
        self._ensure(preparation)
        return self._load(preparation)

    def of(self, preparations: Sequence[Preparation | None]) -> tuple[Any, ...]:
        """Artifacts for the seats of an encounter; None where none is needed."""
        return tuple(None if p is None else self.prepared(p).artifact for p in preparations)

    def records(self, preparations: Sequence[Preparation | None]) -> list[dict[str, Any] | None]:
        """What the preparations of an encounter's seats cost, and which artifacts they are."""
        return [None if p is None else summary(self._record(p)) for p in preparations]

    def _ensure(self, preparation: Preparation) -> None:
        """Takes the artifact over or prepares it, if it is not stored yet."""
        if preparation not in self:
            found = self.shared and self.shared / preparation.hash
            if found and found.is_dir():
                self._place(preparation, self.folder, lambda work: _copy(found, work))
            else:
                path = self.folder / f".checkpoint-{preparation.hash}.npz"
                checkpoint = Checkpoint(path, checkpoint_identity(preparation), self.checkpoint_seconds)
                prepared = prepare(preparation, checkpoint, self.on_point, self.deadline)
                self._place(preparation, self.folder, lambda work: _write(work, prepared))
                checkpoint.drop()
                if self.shared:  # a convenience, which must not cost what was prepared
                    with contextlib.suppress(StoreError):
                        here = self.folder / preparation.hash
                        self._place(preparation, self.shared, lambda work: _copy(here, work))

    def _record(self, preparation: Preparation) -> dict[str, Any]:
        self._ensure(preparation)
        return json.loads((self.folder / preparation.hash / "artifact.json").read_text())

    def _load(self, preparation: Preparation) -> Prepared:
        folder = self.folder / preparation.hash
        rule, game = preparation.learner.value, preparation.game.value
        structure = jax.tree.structure(jax.eval_shape(lambda: imagined_artifact(rule, game, preparation.seat)))
        with np.load(folder / "artifact.npz") as file:
            leaves = [file[str(k)] for k in range(len(file.files))]
        return Prepared(
            jax.tree.unflatten(structure, leaves), self._record(preparation), read_parquet(folder / "curves.parquet")
        )

    def _place(self, preparation: Preparation, folder: Path, fill: Callable[[Path], None]) -> None:
        """Fills a draft and renames it: an artifact stands there whole or not at all."""
        work = folder / f".{preparation.hash[:12]}-{uuid.uuid4().hex[:12]}"
        try:
            work.mkdir(parents=True)
            fill(work)
            disk.place(work, folder / preparation.hash)
        except OSError as error:
            if not (folder / preparation.hash).is_dir():  # else another process has stored the same meanwhile
                raise StoreError(f"cannot write to {str(folder)!r}: {error.strerror or error}") from None
        finally:
            shutil.rmtree(work, ignore_errors=True)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """What a cell's record says of a preparation it used."""
    return {
        "artifact": record["hash"],
        "seeds": record["seeds"][0],
        "steps": record["steps"],
        "diverged": len(record["diverged"]),
        **record["costs"],
        "seconds": record["timings"]["run"],
    }


def _write(work: Path, prepared: Prepared) -> None:
    leaves = jax.tree.leaves(prepared.artifact)
    checkpoints.save_arrays(work / "artifact.npz", {str(k): np.asarray(x) for k, x in enumerate(leaves)})
    (work / "artifact.json").write_text(json.dumps(prepared.record, indent=1) + "\n")
    write_parquet(prepared.curves, work / "curves.parquet")


def _copy(source: Path, work: Path) -> None:
    for file in source.iterdir():
        shutil.copyfile(file, work / file.name)
