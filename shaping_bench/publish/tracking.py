"""Weights & Biases as a projection of the store: everything logged can be logged again from it.

One run per cell (group: the suite; id: the cell's hash) with the seeds' mean and standard
deviation per player and metric, finally the interquartile mean too, and one report run per
suite: the results as one table, the comparison tables as panels, and tables and page as
artifacts. All runs share one process, so that a cell costs hundredths of a second. A marker
per logged cell makes logging idempotent: an interrupted suite logs the rest the next time.

Offline records are uploaded later by :func:`upload`, or by W&B's own ``wandb sync``.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb

from shaping_bench.analysis import stats
from shaping_bench.errors import BadInput, StoreError, unknown
from shaping_bench.run.preparation import Preparation
from shaping_bench.store import facts
from shaping_bench.store.results import Results, load

MODES = ("offline", "online", "disabled")
PROJECT = "shaping-bench"

PROGRESS = "progress"
"""Of the suite's own run."""

PROGRESS_SECONDS = 30.0
"""Between two of its points."""

# Over the seeds whose value is finite: a diverged seed is counted by the metric "diverged".
_AGGREGATE = """
    SELECT {key}, player, metric, avg(v), coalesce(stddev_samp(v), 0), count(v){more}
    FROM (SELECT *, CASE WHEN isfinite(value::DOUBLE) THEN value::DOUBLE END AS v FROM read_parquet(?, filename = true))
    GROUP BY {key}, player, metric ORDER BY {key}, metric, player
"""

_VALUES = ", list(v) FILTER (v IS NOT NULL)"

COLUMNS = ("kind", "game", "learner", "opponent", "player", "metric", "mean", "std", "n", "cell")
"""Of the report run's table ``results``: one row per cell, player and metric."""


class Tracker:
    """Logs the cells of one results directory.

    A failure of W&B never loses results: it is said once on stderr, kept in ``problem``,
    and what was not logged is logged by the next run of the same command.

    Args:
      directory: results directory; records go to its folder ``wandb``.
      suite: the resolved suite; its ``name`` is the group of all runs.
      mode: ``"offline"`` (files to be uploaded later, no network), ``"online"`` or
        ``"disabled"`` (W&B is not even imported).

    Raises:
      BadInput: unknown mode, or ``online`` without credentials.
    """

    def __init__(self, directory: Path | str, suite: Mapping[str, Any], mode: str = "offline") -> None:
        if mode not in MODES:
            raise unknown("--wandb", mode, MODES)
        self.directory, self.suite, self.mode = Path(directory), dict(suite), mode
        self.problem: str | None = None
        self._database: duckdb.DuckDBPyConnection | None = None
        self._live: dict[str, Any] = {}
        self._progress: Callable[[], Mapping[str, float]] | None = None
        self._said = time.monotonic()
        self._lock = threading.Lock()  # preparations run side by side
        if mode == "disabled":
            return
        _set_up(mode)

    @property
    def records(self) -> Path:
        """Folder of W&B's records."""
        return self.directory / "wandb"

    def log_cell(self, key: str) -> None:
        """Logs one stored encounter, unless that was done before.

        League match-ups have no history; they are rows of the report run's tables. So are the thousands of
        encounters that cards alone ask for, of whose tables they are a number.
        """
        if self.mode != "disabled" and self._has_run(key):
            self._once(key, lambda: self._log_cell(key))

    def _has_run(self, key: str) -> bool:
        cell = json.loads((self.directory / "cells" / key / "cell.json").read_text())
        return cell["kind"] == "encounter" and not facts.of_card(cell)

    def finish(self, results: Results | None = None, page: Path | None = None) -> None:
        """Logs all stored cells that are not logged yet, and the report run.

        Args:
          results: the directory's results where they are open already.
          page: the HTML page of the suite.
        """
        if self.mode == "disabled":
            return
        self._log_progress()
        if PROGRESS in self._live:
            self._live.pop(PROGRESS).finish()
        keys = sorted(path.parent.name for path in (self.directory / "cells").glob("[!.]*/cell.json"))
        for key in keys:
            self.log_cell(key)
        # The same cells make the same report, so its identity is theirs.
        identity = json.dumps([self.suite, keys], sort_keys=True, default=str)
        report = hashlib.sha256(identity.encode()).hexdigest()[:24]
        if keys:
            self._once(report, lambda: self._log_report(report, results or load(self.directory), page))

    @contextlib.contextmanager
    def _quietly(self) -> Iterator[None]:
        """A failure of W&B is said once and loses nothing else."""
        import wandb

        try:
            with self._staged_here():
                yield
        except (wandb.Error, OSError) as error:
            self._give_up(error)

    def log_preparation(self, preparation: Preparation, done: int, values: Mapping[str, float]) -> None:
        """Logs a point of a running preparation's curves: one run per preparation, live.

        Args:
          preparation: which.
          done: steps taken.
          values: the curves there, seeds averaged.
        """
        if self.mode == "disabled" or self.problem is not None:
            return
        with self._lock, self._quietly():
            key = preparation.hash
            if key not in self._live:
                self._live[key] = self._start(
                    id=key,
                    name=preparation.title,
                    job_type="preparation",
                    tags=["preparation", preparation.game.name, preparation.learner.name],
                    config=preparation.identity(),
                    resume="allow",
                )
            self._live[key].log({f"preparation/{name}": x for name, x in values.items()}, step=done)
            if done >= preparation.steps:
                self._live.pop(key).finish()

    def log_progress(self, progress: Callable[[], Mapping[str, float]]) -> None:
        """Logs how the suite's run gets on, now and then: one run for all launches.

        Args:
          progress: asked then, see :meth:`shaping_bench.run.tally.Tally.summary`.
        """
        self._progress = progress
        if time.monotonic() - self._said >= PROGRESS_SECONDS:
            self._log_progress()

    def _log_progress(self) -> None:
        if self.mode == "disabled" or self.problem is not None or self._progress is None:
            return
        self._said = time.monotonic()
        with self._lock, self._quietly():
            if PROGRESS not in self._live:
                identity = json.dumps([PROGRESS, self.suite], sort_keys=True, default=str)
                self._live[PROGRESS] = self._start(
                    id=hashlib.sha256(identity.encode()).hexdigest()[:24],
                    name=f"{self.suite['name']}: {PROGRESS}",
                    job_type=PROGRESS,
                    tags=[PROGRESS],
                    config=self.suite,
                    resume="allow",
                )
            self._live[PROGRESS].log({f"{PROGRESS}/{name}": x for name, x in self._progress().items()})

    # --- one run each -----------------------------------------------------------------------

    def _log_cell(self, key: str) -> None:
        folder = self.directory / "cells" / key
        cell = json.loads((folder / "cell.json").read_text())
        players = [learner["label"] for learner in cell["learners"]]
        tags = dict.fromkeys([cell["kind"], cell["game"]["name"], *(learner["name"] for learner in cell["learners"])])
        run = self._start(
            id=key,
            name=f"{cell['game']['label']}: {' vs '.join(players)}" + (" (league)" if cell["kind"] == "league" else ""),
            job_type=cell["kind"],
            tags=[tag[:64] for tag in tags],  # W&B's limit
            config=cell,
        )
        curves = self._aggregate('"update"', folder / "curves.parquet")
        for update, rows in itertools.groupby(curves, key=lambda row: row[0]):
            run.log(_flat(row[1:] for row in rows), step=int(update))
        finals = self._aggregate("filename", folder / "finals.parquet", _VALUES)
        with_iqm = ((*row[1:-1], float(stats.iqm(stats.strata(row[-1] or [])))) for row in finals)
        final = {f"final/{name}": value for name, value in _flat(with_iqm).items()}
        run.summary.update({**final, "diverged": cell["diverged"], "seconds": cell["timings"], "costs": cell["costs"]})
        run.finish()

    def _log_report(self, key: str, results: Results, page: Path | None) -> None:
        import wandb

        cells = {}
        rows = []
        for filename, player, metric, mean, std, n in self._aggregate(
            "filename", self.directory / "cells" / "*" / "finals.parquet"
        ):
            cell_key = Path(filename).parent.name
            if cell_key not in cells:
                cells[cell_key] = json.loads((Path(filename).parent / "cell.json").read_text())
            cell = cells[cell_key]
            if facts.of_card(cell):
                continue
            labels = [learner["label"] for learner in cell["learners"]]
            rows.append(
                [
                    cell["kind"],
                    cell["game"]["label"],
                    labels[player - 1],
                    facts.opponent(labels, player - 1),
                    player,
                    metric,
                    mean,
                    std,
                    n,
                    cell_key,
                ]
            )
        run = self._start(
            id=key, name=f"{self.suite['name']}: report", job_type="report", tags=["report"], config=self.suite
        )
        logged: dict[str, Any] = {"results": wandb.Table(columns=list(COLUMNS), data=rows)}
        if page is not None:
            logged["page"] = wandb.Html(page.read_text(), inject=False)
        for title, rendered in self._comparisons(results).items():
            logged[f"tables/{title}"] = rendered
        run.log(logged)
        for artifact in self._artifacts(results, page):
            run.log_artifact(artifact)
        run.summary.update({"cells": len(cells), "diverged": sum(cell["diverged"] for cell in cells.values())})
        run.finish()

    def _comparisons(self, results: Results) -> dict[str, Any]:
        """The suite's cards and comparison tables, as panels, by title."""
        import wandb

        from shaping_bench.analysis.entries import suite_metrics
        from shaping_bench.publish import tables
        from shaping_bench.publish.cards import cards_in
        from shaping_bench.publish.standings import card_tables

        shown = [table for card in cards_in(results) for table in card_tables(card)]
        for kind in dict.fromkeys(record["kind"] for record in results.records):
            for metric in suite_metrics(results, kind):
                shown += tables.build(results, metric, kind=kind)
        panels = {}
        for table in shown:
            columns: list[str | int] = [table.corner, *table.col_labels]
            rows = zip(table.row_labels, table.cells, strict=True)
            data = [[label, *(cell.text for cell in cells)] for label, cells in rows]
            # The title becomes part of a file's name.
            panels[re.sub(r"[^\w .()=-]", "", table.title)] = wandb.Table(columns=columns, data=data)
        return panels

    def _artifacts(self, results: Results, page: Path | None) -> Iterator[Any]:
        """The tables in every format and the page, as versioned files."""
        import wandb

        from shaping_bench.publish import tables

        written = wandb.Artifact(f"{self.suite['name']}-tables", type="tables")
        for fmt, suffix in (("md", "md"), ("latex", "tex"), ("csv", "csv"), ("json", "json")):
            with written.new_file(f"tables.{suffix}", encoding="utf-8") as file:
                file.write(tables.table_command(results, None, fmt))
        yield written
        if page is not None:
            shown = wandb.Artifact(f"{self.suite['name']}-page", type="page")
            shown.add_file(str(page), "report.html")
            yield shown

    def _start(self, **about: Any) -> Any:
        import wandb

        return wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self.suite["name"],
            dir=str(self.directory),
            mode=self.mode,  # type: ignore[arg-type]
            reinit="create_new",
            settings=_quiet(),
            **about,
        )

    def _aggregate(self, key: str, path: Path, more: str = "") -> list[tuple[Any, ...]]:
        """Rows ``(key, player, metric, mean, std, n)`` over the seeds of tidy files, and ``more``."""
        if self._database is None:
            self._database = duckdb.connect()
        return self._database.execute(_AGGREGATE.format(key=key, more=more), [str(path)]).fetchall()

    # --- markers and faults -------------------------------------------------------------------

    def _once(self, key: str, log: Callable[[], None]) -> None:
        # One folder per mode: what was logged offline may later be wanted online.
        marker = self.records / "logged" / self.mode / key
        if self.mode == "disabled" or self.problem is not None or marker.exists():
            return
        import wandb

        try:
            marker.parent.mkdir(parents=True, exist_ok=True)
            with self._staged_here():
                log()
            marker.touch()
        except (wandb.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.problem = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"shaping-bench: W&B ({self.mode}) failed and is left out from here: {self.problem}; "
            "results are stored, and the same command logs the rest",
            file=sys.stderr,
        )

    @contextlib.contextmanager
    def _staged_here(self) -> Iterator[None]:
        """W&B stages tables and artifacts in the user's home unless told otherwise."""
        folders = {"WANDB_DATA_DIR": self.records / "data", "WANDB_CACHE_DIR": self.records / "cache"}
        missing = {name: str(path.resolve()) for name, path in folders.items() if name not in os.environ}
        os.environ.update(missing)
        try:
            yield
        finally:
            for name in missing:
                del os.environ[name]


def _flat(rows: Iterator[tuple[Any, ...]]) -> dict[str, float]:
    """Rows ``(player, metric, mean, std, n[, iqm])`` as W&B keys: one panel section per metric."""
    out: dict[str, float] = {}
    for player, metric, mean, std, n, *iqm in rows:
        if n:
            out[f"{metric}/player_{player}"] = mean
            out[f"{metric}/player_{player}_std"] = std
            out |= {f"{metric}/player_{player}_iqm": x for x in iqm}
    return out


def _set_up(mode: str) -> None:
    """To be called before W&B is imported: it reads its variables once.

    Raises:
      BadInput: ``online`` without credentials.
    """
    # Silent also means that it never asks.
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    if mode == "online":
        log_in("--wandb is 'online'", "offline, disabled, or online with")


# --- one encounter, and what was recorded offline ---------------------------------------------


def log_encounter(result: Mapping[str, Any], mode: str) -> None:
    """Logs one encounter of the command line as a run of its own: what an agent of a sweep runs.

    W&B's variables (``WANDB_MODE``, ``WANDB_PROJECT``, ``WANDB_DIR``, and an agent's own) are
    heeded; the mode among them wins over ``mode``.

    Args:
      result: what ``encounter --json`` prints; ``final/METRIC/player_I`` is the mean over seeds, with
        ``_std`` and ``_iqm`` beside it.
      mode: ``"offline"``, ``"online"`` or ``"disabled"``.

    Raises:
      BadInput: ``online`` without credentials.
      StoreError: W&B failed.
    """
    mode = os.environ.get("WANDB_MODE", mode)
    if mode == "disabled":
        return
    _set_up(mode)
    import wandb

    final = {
        f"final/{metric}/player_{i + 1}{suffix}": x[name]
        for metric, players in result["metrics"].items()
        for i, x in enumerate(players)
        for name, suffix in (("mean", ""), ("std", "_std"), ("iqm", "_iqm"))
        if x[name] is not None
    }
    about = ("game", "learners", "seeds", "steps", "seed", "precision", "hyperparameters")
    try:
        with wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            job_type="encounter",
            name=f"{result['game']}: {' vs '.join(result['learners'])}"[:128],
            tags=["encounter"],
            config={name: result[name] for name in about if name in result},
            mode=mode,  # type: ignore[arg-type]
            settings=_quiet(),
        ) as run:
            run.log({**final, "diverged": result["diverged"]})
            run.summary["seconds"] = result["seconds"]
    except (wandb.Error, OSError) as error:
        raise StoreError(f"W&B ({mode}) failed: {' '.join(str(error).split())}") from None


def upload(directory: Path | str, dry_run: bool = False) -> int:
    """Uploads what was recorded offline and not uploaded yet, by ``wandb sync``.

    Artifacts and tables are uploaded from where they were staged, ``DIRECTORY/wandb/data``, which
    the records name by its full path: upload from the machine and folder of the run.

    Args:
      directory: a results directory.
      dry_run: only say what would be uploaded; needs no credentials.

    Returns:
      The exit code of ``wandb sync``.

    Raises:
      BadInput: nothing was recorded there, or there are no credentials.
    """
    runs = sorted(str(path.resolve()) for path in (Path(directory) / "wandb").glob("offline-run-*"))
    if not runs:
        raise BadInput(
            f"results directory {str(directory)!r} holds no offline W&B records; "
            "allowed: one of shaping-bench run --wandb offline"
        )
    command = [sys.executable, "-m", "wandb", "sync", "--dry-run" if dry_run else "--yes", *runs]
    environment = dict(os.environ)
    if not dry_run:
        os.environ.setdefault("WANDB_SILENT", "true")  # here W&B would ask, in the sync it tells
        log_in(f"upload of {str(directory)!r} needs credentials", "with")
    return subprocess.run(command, env=environment).returncode


def log_in(what: str, allowed: str) -> None:
    """Makes sure that there are credentials; never asks.

    Raises:
      BadInput: there are none.
    """
    import wandb

    try:
        wandb.login()
    except wandb.Error as error:
        raise BadInput(
            f"{what}, but {' '.join(str(error).split())} Allowed: {allowed} "
            "credentials (run `wandb login`, or set WANDB_API_KEY)"
        ) from None


def _quiet() -> Any:
    """Settings of every run: nothing is printed or asked, and what the store knows is not collected again."""
    import wandb

    return wandb.Settings(
        console="off",
        silent=True,
        quiet=True,
        show_info=False,
        symlink=False,
        init_timeout=30.0,
        x_disable_stats=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
    )
