"""Reads a results directory back: what ran, its final metrics and its curves.

Labels, not class names, identify learners and games, because a suite may hold one rule
several times with different numbers. A row belongs to one player: ``learner`` is the
label in that player's seat, ``opponent`` everybody else's (see :func:`shaping_bench.store.facts.opponent`).
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import duckdb
import pandas as pd
import yaml

from shaping_bench.errors import BadInput
from shaping_bench.store import compaction, facts
from shaping_bench.store.store import LOADER, WITHIN

SCHEMA = 1
"""Newest layout of a cell that this reader understands."""

_SEAT_COLUMNS = ("hash", "kind", "game", "learner", "opponent")


P = ParamSpec("P")
T = TypeVar("T")


def kept(function: Callable[P, T]) -> Callable[P, T]:
    """Keeps what a function of a :class:`Results` yields with that object, for as long as it lives."""

    @functools.wraps(function)
    def lookup(*args: P.args, **kwargs: P.kwargs) -> T:
        memory = cast("Results", args[0]).memory
        key = (function.__module__, function.__qualname__, args[1:], tuple(sorted(kwargs.items())))
        if key not in memory:
            memory[key] = function(*args, **kwargs)
        return memory[key]

    return lookup


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """A results directory. Frames are read when first asked for, and kept; copy before changing one.

    Attributes:
      directory: where it lies.
      suite: the resolved suite, as written in ``suite.yaml``.
      records: ``cell.json`` of every finished cell, in the suite's order.
      memory: what :func:`kept` functions have made of it.
      superseded: cells of match-ups of which there is a newer one; in no table.
      parts: copies of some cells, from which they are read.
      card_records: of the cells that only cards ask for; in no table or figure of the suite's games.
    """

    directory: Path
    suite: dict[str, Any]
    records: tuple[dict[str, Any], ...]
    memory: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)
    superseded: tuple[dict[str, Any], ...] = ()
    parts: tuple[compaction.Part, ...] = ()
    card_records: tuple[dict[str, Any], ...] = ()

    @functools.cached_property
    def whole(self) -> "Results":
        """The same with the cells of cards among the others."""
        records = (*self.records, *self.card_records)
        return dataclasses.replace(self, records=records, card_records=(), memory={}) if self.card_records else self

    @functools.cached_property
    def cells(self) -> pd.DataFrame:
        """One row per cell: hash, kind, game, ``learner_1..n``, protocol, seconds, costs, command."""
        return pd.DataFrame([_cell_row(record) for record in self.records])

    @functools.cached_property
    def seats(self) -> pd.DataFrame:
        """One row per cell and player: hash, player (from 1), kind, game, learner, opponent."""
        rows = []
        for record in self.records:
            labels = [x["label"] for x in record["learners"]]
            for i, label in enumerate(labels):
                names = (record["hash"], record["kind"], record["game"]["label"], label, facts.opponent(labels, i))
                rows.append((i + 1, *names))
        frame = pd.DataFrame(rows, columns=["player", *_SEAT_COLUMNS])
        # As categories a million rows of labels cost a byte each.
        return frame.astype({name: "category" for name in _SEAT_COLUMNS})

    @functools.cached_property
    def finals(self) -> pd.DataFrame:
        """Final metrics: hash, kind, game, learner, opponent, seed, player, metric, value.

        Large in a suite of hundreds of cells; :meth:`final` reads one metric.
        """
        frame = self._query("SELECT hash, seed, player, metric, value FROM rows ORDER BY ALL", "finals")
        frame["metric"] = frame["metric"].astype("category")
        return self._with_labels(frame)

    def final(self, metric: str, kind: str | None = None) -> pd.DataFrame:
        """One final metric, of one kind of cells or of all: as ``finals``, without ``metric``."""
        sql = "SELECT hash, seed, player, value FROM rows WHERE metric = $metric ORDER BY ALL"
        frame = self._with_labels(self._query(sql, "finals", metric=metric))
        return frame if kind is None else frame[frame["kind"] == kind]

    @kept
    def final_metrics(self, kind: str) -> tuple[str, ...]:
        """Names of the final metrics that cells of this kind have stored."""
        hashes = [record["hash"] for record in self.records if record["kind"] == kind]
        sql = "SELECT DISTINCT metric FROM rows WHERE hash IN (SELECT unnest($hashes)) ORDER BY metric"
        return tuple(self._query(sql, "finals", hashes=hashes)["metric"]) if hashes else ()

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Curves: as ``finals``, with ``update``. Large; :meth:`curve_bands` aggregates instead."""
        frame = self._query("SELECT hash, seed, update, player, metric, value FROM rows ORDER BY ALL", "curves")
        frame["metric"] = frame["metric"].astype("category")
        return self._with_labels(frame)

    def curve(self, metric: str, hashes: Sequence[str]) -> pd.DataFrame:
        """One metric's curves in some cells: hash, seed, update, player, value."""
        return self._query(
            "SELECT hash, seed, update, player, value FROM rows WHERE metric = $metric AND "
            "hash IN (SELECT unnest($hashes)) ORDER BY ALL",
            "curves",
            metric=metric,
            hashes=list(hashes),
        )

    @kept
    def curve_bands(self, metric: str) -> pd.DataFrame:
        """Mean and spread over seeds of one metric's curves.

        Returns:
          hash, game, learner, opponent, player, update, mean, std (ddof 1; NaN for one
          seed), n (seeds that are finite there).
        """
        bands = self._query(
            "SELECT hash, player, update, avg(value) AS mean, stddev_samp(value) AS std, count(value) AS n "
            "FROM rows WHERE metric = $metric AND isfinite(value) GROUP BY hash, player, update ORDER BY ALL",
            "curves",
            metric=metric,
        )
        return self._with_labels(bands)

    @kept
    def self_play_bands(self, metric: str) -> pd.DataFrame:
        """Mean and spread over seeds of a seed's mean over the seats, of cells in self-play.

        Returns:
          hash, game, learner, update, mean, std (ddof 1; NaN for one seed), n (seeds with every
          seat finite there).
        """
        alone = [r for r in self.records if len({x["label"] for x in r["learners"]}) == 1]
        names = [(r["hash"], r["game"]["label"], r["learners"][0]["label"]) for r in alone]
        labels = pd.DataFrame(names, columns=["hash", "game", "learner"])
        bands = self._query(
            "SELECT hash, update, avg(value) AS mean, stddev_samp(value) AS std, count(value) AS n FROM "
            "(SELECT hash, seed, update, avg(value) AS value FROM rows WHERE metric = $metric AND "
            "hash IN (SELECT unnest($hashes)) GROUP BY hash, seed, update HAVING count(value) = count(*)) "
            "WHERE isfinite(value) "
            "GROUP BY hash, update ORDER BY ALL",
            "curves",
            metric=metric,
            hashes=list(labels["hash"]),
        )
        return bands.merge(labels, on="hash")

    def within(self, metric: str, hashes: Sequence[str]) -> pd.DataFrame:
        """What final policies get in each step of an episode, of those cells that have stored it: hash, seed,
        step, player, value."""
        paths = (self.directory / "cells" / key / WITHIN for key in hashes)
        files = [str(path) for path in paths if path.exists()]
        if not files:
            kinds = {"hash": "str", "seed": int, "step": int, "player": int, "value": float}
            return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in kinds.items()})
        sql = (
            "SELECT parse_path(filename)[-2] AS hash, seed, step, player, value "
            "FROM read_parquet($files, filename = true) WHERE metric = $metric ORDER BY ALL"
        )
        with duckdb.connect() as database:
            return database.execute(sql, {"files": files, "metric": metric}).df()

    @functools.cached_property
    def curve_metrics(self) -> tuple[str, ...]:
        """Names of the metrics that have curves."""
        return tuple(self._query("SELECT DISTINCT metric FROM rows ORDER BY metric", "curves")["metric"])

    @functools.cached_property
    def games(self) -> tuple[str, ...]:
        """Labels of the games, in the suite's order."""
        return tuple(dict.fromkeys(record["game"]["label"] for record in self.records))

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        """Labels of all who played, the suite's learners first, in the suite's order."""
        entries = [*_listed(self.suite, "learners"), *_listed(self.suite, "opponents")]
        return tuple(sorted(self.played, key=lambda label: (facts.position(self.played[label], entries), label)))

    @functools.cached_property
    def learners(self) -> tuple[str, ...]:
        """Labels of the suite's learners; without the opponents that only they meet."""
        entries = _listed(self.suite, "learners")
        return tuple(x for x in self.labels if facts.position(self.played[x], entries) < len(entries))

    @functools.cached_property
    def opponents(self) -> tuple[str, ...]:
        """Labels of everybody met, in order; groups of unlike opponents last."""
        return tuple(sorted(self.seats["opponent"].unique(), key=lambda x: (self.rank("opponent", x), x)))

    @functools.cached_property
    def played(self) -> dict[str, dict[str, Any]]:
        """Label to the learner's entry in the first cell that holds it."""
        found: dict[str, dict[str, Any]] = {}
        for record in self.records:
            for learner in record["learners"]:
                found.setdefault(learner["label"], learner)
        return found

    def among(self, labels: Collection[str]) -> "Results":
        """The same results without the cells in which somebody else sits."""
        known = set(labels)

        def left(records: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
            return tuple(r for r in records if known.issuperset(x["label"] for x in r["learners"]))

        return dataclasses.replace(self, records=left(self.records), superseded=left(self.superseded), memory={})

    def rank(self, dimension: str, label: str) -> int:
        """Position of a label of the dimension ``learner``, ``opponent`` or ``game`` in tables."""
        known: Sequence[str] = self.games if dimension == "game" else self.labels
        return known.index(label) if label in known else len(known)

    def _query(self, sql: str, table: str, **parameters: Any) -> pd.DataFrame:
        """What SQL over ``rows`` yields: all cells' rows of one kind, with the cell's hash."""
        try:
            return self._read(sql, table, parameters)
        except duckdb.Error as error:
            if self.parts and "copies" not in self.memory:  # another process has removed them, or they are damaged
                self.memory["copies"] = "unreadable"
                return self._query(sql, table, **parameters)
            raise BadInput(
                f"results directory {str(self.directory)!r} has {table}.parquet files that cannot be read "
                f"({str(error).splitlines()[0]}); allowed: those of shaping-bench run"
            ) from None

    def _read(self, sql: str, table: str, parameters: Mapping[str, Any]) -> pd.DataFrame:
        hashes = [record["hash"] for record in self.records]
        sources: list[str] = []
        names: dict[str, Any] = {}
        parts = [] if "copies" in self.memory else list(compaction.chosen(self.parts, hashes))
        for k, (folder, own) in enumerate(parts):
            names[f"part_{k}"] = str(folder / f"{table}.parquet")
            sources.append(f"SELECT * FROM read_parquet($part_{k})")
            if own is not None:
                names[f"of_{k}"] = own
                sources[-1] += f" WHERE hash IN (SELECT unnest($of_{k}))"
        copied = {key for part in self.parts for key in part.records} if parts else set()
        # The files of finished cells by name: a glob would also see what is being written.
        files = tuple(str(self.directory / "cells" / key / f"{table}.parquet") for key in hashes if key not in copied)
        if files and table == "finals":
            sources.append("SELECT * FROM loose")
        elif files:
            sources.append(compaction.rows_of_cells("files"))
            names["files"] = files
        rows = f"({' UNION ALL BY NAME '.join(sources)}) AS rows"
        database = self._loose(files) if table == "finals" else duckdb.connect()
        with database.cursor() as connection:
            return connection.execute(sql.replace("FROM rows", f"FROM {rows}"), {**names, **parameters}).df()

    @kept
    def _loose(self, files: tuple[str, ...]) -> duckdb.DuckDBPyConnection:
        """A database in memory whose table ``loose`` is what these files hold: final metrics are asked for one
        by one, and are kept in a tenth of a data frame's room."""
        connection = duckdb.connect()
        if files:
            connection.execute(f"CREATE TABLE loose AS {compaction.rows_of_cells('files')}", {"files": files})
        return connection

    def _with_labels(self, frame: pd.DataFrame) -> pd.DataFrame:
        frame["hash"] = frame["hash"].astype(self.seats["hash"].dtype)
        return frame.merge(self.seats, on=["hash", "player"], how="left")


def load(directory: Path | str) -> Results:
    """Opens a results directory made by ``shaping-bench run``.

    Raises:
      BadInput: there is no such directory, it is no results directory, or it has no
        finished cell.
    """
    directory = Path(directory)
    hint = "allowed: a directory made by shaping-bench run"
    if not directory.is_dir():
        raise BadInput(f"results directory is {str(directory)!r}, which is no directory; {hint}")
    try:
        suite = yaml.load((directory / "suite.yaml").read_text(), Loader=LOADER)
    except OSError:
        raise BadInput(f"results directory is {str(directory)!r}, which has no readable suite.yaml; {hint}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        suite = None
    if not isinstance(suite, dict):
        raise BadInput(f"results directory is {str(directory)!r}, whose suite.yaml is not a YAML mapping; {hint}")
    stored, parts = _stored(directory)
    if not stored:
        raise BadInput(f"results directory is {str(directory)!r}, which holds no finished cell; {hint}")
    of_cards = tuple(record for record in stored if facts.of_card(record))
    apart = {record["hash"] for record in of_cards}
    records, superseded = _newest([record for record in stored if record["hash"] not in apart])
    games, learners = list(suite.get("games", [])), [*_listed(suite, "learners"), *_listed(suite, "opponents")]

    def order(record: Mapping[str, Any]) -> tuple[Any, ...]:
        game = facts.position(record["game"], games)
        seats = [facts.position(x, learners) for x in record["learners"]]
        return record["kind"] == "league", game, record["game"]["label"], seats, record["hash"]

    return Results(
        directory=directory,
        suite=suite,
        records=tuple(sorted(records, key=order)),
        superseded=superseded,
        parts=tuple(parts),
        card_records=of_cards,
    )


def _stored(directory: Path) -> tuple[list[dict[str, Any]], list[compaction.Part]]:
    """Records of all finished cells, and the copies of cells that there are; many cells without one get one."""
    folders = compaction.folders(directory / "cells")
    parts = compaction.parts(directory, folders)
    records = {key: record for part in parts for key, record in part.records.items()}
    paths = [directory / "cells" / key / "cell.json" for key in sorted(folders) if key not in records]
    loose = (_record(path) for path in paths if path.exists())
    if compaction.many(len(paths), len(records)):
        packed = compaction.Packed(loose)
        parts += compaction.compacted(directory, packed, folders)
        records |= {key: packed.record(key) for key in packed.cells}
    else:
        records |= {record["hash"]: record for record in loose}
    return [records[key] for key in sorted(records)], parts


def _newest(records: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], tuple[dict[str, Any], ...]]:
    """The newest cell of each match-up, and those that it has superseded: where a default has changed
    since they were stored, the same labels mean something else now."""
    by_labels: dict[Any, list[dict[str, Any]]] = {}
    for record in sorted(records, key=lambda x: (x.get("started") or "", x["hash"])):
        labels = tuple(x["label"] for x in record["learners"])
        by_labels.setdefault((record["kind"], record["game"]["label"], labels), []).append(record)
    older = [record for cells in by_labels.values() for record in cells[:-1]]
    return [cells[-1] for cells in by_labels.values()], tuple(older)


def opened(source: "Results | Path | str") -> Results:
    """Results that are open already, or a directory that is opened now."""
    return source if isinstance(source, Results) else load(source)


def _listed(suite: Mapping[str, Any], key: str) -> list[Any]:
    """The suite's ``learners`` or ``opponents``, those of single games included."""
    entries = list(suite.get(key, []))
    for game in suite.get("games", []):
        entries += (game.get(key) or ()) if isinstance(game, dict) else ()
    return entries


def _record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        for key in ("schema", "kind", "game", "learners", "seeds", "steps", "timings", "costs"):
            record[key]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"cell {str(path)!r} cannot be read ({type(error).__name__}: {error}); "
            "allowed: one of shaping-bench run (remove its folder and run the suite again)"
        ) from None
    if record["schema"] > SCHEMA:
        raise BadInput(
            f"cell {str(path)!r} has schema {record['schema']}; allowed: up to {SCHEMA} (newer program needed)"
        )
    return {**record, "hash": path.parent.name}


def preparations(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What a cell's learners were prepared with, by artifact: one that serves several seats counts once."""
    prepared = [x.get("preparation") for x in record["learners"]]
    return {x["artifact"]: x for x in prepared if x}


def _cell_row(record: Mapping[str, Any]) -> dict[str, Any]:
    timings, costs, device = record["timings"], record["costs"], record.get("device", {})
    evaluations = costs.get("gradient_evaluations", 0)
    prepared = preparations(record).values()
    return {
        "hash": record["hash"],
        "kind": record["kind"],
        "game": record["game"]["label"],
        **{f"learner_{i + 1}": x["label"] for i, x in enumerate(record["learners"])},
        **{key: record.get(key) for key in ("seeds", "seed", "steps", "record_every", "precision")},
        **{f"{key}_seconds": float(timings.get(key, 0.0)) for key in ("compile", "run", "metrics")},
        "updates": costs.get("updates", 0),
        "gradient_evaluations": (sum(evaluations) if isinstance(evaluations, list) else evaluations)
        + sum(x["gradient_evaluations"] for x in prepared),
        "environment_steps": costs.get("environment_steps", 0) + sum(x["environment_steps"] for x in prepared),
        "preparation_seconds": float(sum(x["seconds"] for x in prepared)),
        "diverged": int(record.get("diverged", 0)),
        "device": f"{device.get('kind', 'unknown')} x {device.get('count', 1)}",
        "git_commit": record.get("git_commit"),
        "started": record.get("started"),
        "command": record.get("command", ""),
    }
