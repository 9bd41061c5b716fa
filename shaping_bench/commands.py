"""What the longer commands do, apart from parsing their arguments."""

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from rich.console import Console

from shaping_bench import metrics
from shaping_bench.errors import BadInput, OutOfTime
from shaping_bench.games.base import Game
from shaping_bench.publish.watching import Display, listed, plan_summary, plan_text, status_text
from shaping_bench.run import devices
from shaping_bench.run.artifacts import Artifacts
from shaping_bench.run.checkpoints import Folder, encounter_identity, prune
from shaping_bench.run.deadline import Deadline
from shaping_bench.run.encounter import check_size, run_encounter
from shaping_bench.run.preparation import OnPoint, needed
from shaping_bench.spec.protocol import Protocol
from shaping_bench.spec.registry import Named
from shaping_bench.spec.sources import source_hash
from shaping_bench.spec.suite import Cell, Suite, expand, resolve, validate

if TYPE_CHECKING:  # what suites need, and single encounters do not, takes long to import
    from shaping_bench.engines import Engine, Event

MAX_SEEDS_WITH_PARAMS = 1000

MAX_STOPS = 3
"""Of what a time limit has stopped, as many are told one by one."""


def _stderr() -> Console:
    return Console(file=sys.stderr, soft_wrap=True)


# --- run ----------------------------------------------------------------------------------


def run_and_report(
    suite: Suite, directory: Path, wandb: str, engine: "Engine | None" = None, deadline: Deadline | None = None
) -> int:
    """Runs a suite into a directory, tracks it, prints its cards and names its page.

    Raises:
      OutOfTime: the deadline has passed; says what is stored and what was stopped.
    """
    from shaping_bench.publish.cards import MAX_LINES, cards_beside, cards_in, text_of_run
    from shaping_bench.publish.report import write_report
    from shaping_bench.publish.tracking import Tracker
    from shaping_bench.run.runner import run_suite
    from shaping_bench.run.tally import Tally
    from shaping_bench.store.results import load
    from shaping_bench.store.store import Store

    store = Store(directory)
    store.adopt(suite.resolved(), resolve)
    console = _stderr()
    if suite.skipped:
        reasons = dict.fromkeys(suite.skipped)
        text = f"left out: {len(reasons)} pairings that cannot be played, e.g. {next(iter(reasons))}"
        console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)
    started = time.perf_counter()
    tracker = Tracker(directory, suite.resolved(), wandb)
    cells = [*suite.encounters, *suite.matches]
    computed = 0
    outdated: dict[str, None] = {}
    stops: list[OutOfTime] = []
    with Display(console, suite.file.name, len(cells)) as display:

        def on_cell(cell: Cell, now: bool) -> None:
            nonlocal computed
            computed += now
            if cell.hash in store:
                tracker.log_cell(cell.hash)
            if not now:
                outdated.update(_changed_since(store.cell(cell.hash), cell))

        def on_event(event: "Event", tally: Tally) -> None:
            display.show(event, tally)
            tracker.log_progress(tally.summary)

        failures = run_suite(
            suite,
            store,
            on_cell,
            tracker.log_preparation,
            engine,
            deadline=deadline,
            on_stop=stops.append,
            on_event=on_event,
        )
    for failure in failures:
        console.print(f"failed: {failure.cell.title}: {failure.error}", style="red", highlight=False, markup=False)
    stored = sum(cell.hash in store for cell in cells)
    if stored + len(failures) < len(cells):
        further = computed > len(failures) or any(stop.further for stop in stops)
        raise OutOfTime("; ".join([f"{stored} of {len(cells)} cells stored", *told(stops)]), further)
    # Read once: cards, page and tracking share what they make of it.
    results = load(directory)
    page = write_report(results)
    tracker.finish(results, page)
    seconds = time.perf_counter() - started
    kept = len(cells) - computed
    where = {"offline": f"; W&B offline records in {directory / 'wandb'}", "online": "; W&B online", "disabled": ""}[
        wandb
    ]
    said = [f"{computed - len(failures)} cells computed, {kept} kept, {len(failures)} failed in {seconds:.0f} s{where}"]
    console.print(said[0], highlight=False)
    if outdated:
        said.append(
            f"kept although the source of {', '.join(outdated)} has changed since: another -o computes them anew"
        )
        console.print(said[1], style="yellow", highlight=False, markup=False)
    lines = MAX_LINES - len(said) - bool(suite.skipped) - 1  # make adds a line
    print(text_of_run(cards_in(results), directory, page, lines, beside=cards_beside(results)))
    return 1 if failures else 0


def told(stops: Sequence[OutOfTime]) -> list[str]:
    """What was stopped where, in few words."""
    some = list(dict.fromkeys(str(stop) for stop in stops))
    return [*some[:MAX_STOPS], *([f"{len(stops) - MAX_STOPS} more stopped"] if len(some) > MAX_STOPS else [])]


def _changed_since(record: Mapping[str, Any], cell: Cell) -> dict[str, None]:
    """Labels of a stored cell's learners whose code is another now."""
    code = {x.label: source_hash(x.named.value, cell.game.named.value) for x in cell.learners}
    # Records of earlier versions do not say, or say it of single files.
    return {x["label"]: None for x in record["learners"] if x.get("code", code.get(x["label"])) != code.get(x["label"])}


# --- plan and status -------------------------------------------------------------------------------


def plan_command(suite: Suite, directory: Path, as_json: bool) -> str:
    """What is left to do of a suite, for people or as JSON."""
    from shaping_bench.run.jobs import plan
    from shaping_bench.store.store import Store

    store = Store(directory, writable=False)
    if (directory / "suite.yaml").exists():  # another suite's, which a run would refuse
        store.adopt(suite.resolved(), resolve)
    found = plan_summary(plan(suite, store), suite.file.name)
    return json.dumps(found, indent=1) if as_json else plan_text(found)


def status_command(directory: Path, as_json: bool) -> str:
    """How the runs of a results directory have got on, for people or as JSON."""
    from shaping_bench.store.events import status

    def count() -> int:
        suite = expand(validate(yaml.safe_load((directory / "suite.yaml").read_text())))
        return len(suite.encounters) + len(suite.matches)

    found = status(directory, count)
    return json.dumps(dataclasses.asdict(found), indent=1) if as_json else status_text(found)


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A spinner on stderr with one line of text."""
    console = _stderr()
    with console.status("starting") as status:
        yield lambda text: status.update(str(text))


def preparation_progress(say: Callable[[str], None]) -> OnPoint:
    """Tells how a running preparation gets on, in one line of text."""
    return lambda p, done, values: say(f"{p.title}: step {done} of {p.steps}, {listed(values)}")


# --- encounter ----------------------------------------------------------------------------


def read_init(path: Path, game: Game) -> list[np.ndarray]:
    """Joint initial policy parameters from a JSON file.

    Raises:
      BadInput: not JSON, or not one list of finite numbers of the right length per player.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(f"--init is {str(path)!r}, which cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise BadInput(f"--init {str(path)!r} is not JSON ({error})") from None
    sizes = list(game.sizes)
    if not sizes:
        raise BadInput(f"--init {str(path)!r}: policies of this game are networks; allowed: games with exact values")
    allowed = f"allowed: one list of numbers per player, of lengths {sizes}"
    if not isinstance(content, list) or len(content) != len(sizes):
        shape = len(content) if isinstance(content, list) else type(content).__name__
        raise BadInput(f"--init {str(path)!r} holds {shape} entries; {allowed}")
    for player, (row, size) in enumerate(zip(content, sizes, strict=True)):
        if not isinstance(row, list) or len(row) != size:
            raise BadInput(f"--init {str(path)!r} has {row!r} for player {player + 1}; {allowed}")
        for x in row:
            if isinstance(x, bool) or not isinstance(x, int | float) or not math.isfinite(x):
                raise BadInput(f"--init {str(path)!r} has {x!r} for player {player + 1}; {allowed}")
    return [np.array(row, np.float64) for row in content]


def encounter_result(
    game: Named,
    learners: Sequence[Named],
    protocol: Protocol,
    *,
    init: Sequence[np.ndarray] | None = None,
    artifacts: Path | None = None,
    seats_apart: bool = False,
    deadline: Deadline | None = None,
    keep_state: bool = False,
) -> dict[str, Any]:
    """One encounter as the object that ``encounter --json`` prints.

    Args:
      game, learners, protocol: who plays what, and how.
      init: initial policy parameters, where they are given.
      artifacts: folder of preparations.
      seats_apart: every seat learns on a device of its own.
      deadline: when to stop at a checkpoint.
      keep_state: keep where it ended, so that the same with more updates goes on from there.

    Raises:
      OutOfTime: the deadline has passed; the same call goes on.
      StoreError: where it ended is to be kept, and cannot be written.
    """
    rules = [x.value for x in learners]
    check_size(game.value, rules, protocol.seeds)  # before hours of preparing for what cannot be
    needs = needed(game, learners, seeds=protocol.preparations, seed=protocol.seed, precision=protocol.precision)
    with progress_line() if any(needs) else contextlib.nullcontext(_ignored) as say:
        folder = artifacts or devices.artifacts_folder()
        prepared = Artifacts(folder, preparation_progress(say), deadline=deadline)
        trees, records = prepared.of(needs), prepared.records(needs)
    identity = encounter_identity(game, learners, protocol, seeds=protocol.seeds, needs=needs, init=init)
    if seats_apart:  # other last bits
        identity["seats_apart"] = True
    prune(devices.checkpoints_folder())
    left = Folder(devices.checkpoints_folder(), identity)
    checkpoint = left.checkpoint(protocol.steps)
    outcome = run_encounter(
        game.value,
        rules,
        num_seeds=protocol.seeds,
        num_updates=protocol.steps,
        seed=protocol.seed,
        record_every=protocol.record_every,
        init=init,
        precision=protocol.precision,
        episodes=protocol.episodes,
        artifacts=trees,
        checkpoint=checkpoint,
        deadline=deadline,
        seats_apart=seats_apart,
        earlier=left.latest(protocol.steps),
        keep_end=keep_state,
    )
    if outcome.params:
        values = metrics.evaluate(game.value, outcome.final)
    else:
        values = metrics.from_play(game.value, {name: x[-1] for name, x in outcome.played.items()})
        lost = np.repeat(outcome.diverged[:, None], game.value.n_players, axis=1)
        values = {name: np.where(lost, np.nan, x) for name, x in values.items()} | {"diverged": lost.astype(float)}
    result: dict[str, Any] = {
        "game": game.text,
        "learners": [x.text for x in learners],
        **{name: getattr(protocol, name) for name in ("seeds", "steps", "seed", "precision")},
        "metrics": {name: [_aggregate(x[:, i]) for i in range(x.shape[1])] for name, x in values.items()},
        "diverged": int(outcome.diverged.sum()),
        "seconds": {"compile": outcome.compile_seconds, "run": outcome.run_seconds},
    }
    if any(needs):
        result["preparations"] = records
    if outcome.params and protocol.seeds <= MAX_SEEDS_WITH_PARAMS:
        result["params"] = [[_numbers(x[s]) for x in outcome.final] for s in range(protocol.seeds)]
    if outcome.end is not None:
        left.end(protocol.steps).save(outcome.end)
    checkpoint.drop()
    return result


def _ignored(text: str) -> None:
    del text


def _aggregate(x: np.ndarray) -> dict[str, float | int | None]:
    """Over the seeds whose metric is defined; n says how many those are."""
    from shaping_bench.analysis.stats import iqm

    x = x[np.isfinite(x)]
    if not len(x):
        return {"mean": None, "std": None, "iqm": None, "n": 0}
    std = float(x.std(ddof=1)) if len(x) > 1 else 0.0
    return {"mean": float(x.mean()), "std": std, "iqm": float(iqm([x])), "n": len(x)}


def _numbers(x: np.ndarray) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in x]


def encounter_text(result: dict[str, Any]) -> str:
    """The same for people."""
    from tabulate import tabulate

    players = range(len(result["learners"]))
    header = ["metric", *(f"{result['learners'][i]} (player {i + 1})" for i in players)]

    def shown(a: dict[str, Any]) -> str:
        return "-" if a["mean"] is None else f"{a['mean']:.4f} ± {a['std']:.4f}"

    rows = [[name, *(shown(a) for a in per_player)] for name, per_player in result["metrics"].items()]
    seconds = result["seconds"]
    title = (
        f"{result['game']}: {result['seeds']} seeds, {result['steps']} updates, {result['diverged']} diverged "
        f"(mean ± std over seeds; compile {seconds['compile']:.2f} s, run {seconds['run']:.3f} s)"
    )
    for record in {x["artifact"]: x for x in result.get("preparations", ()) if x is not None}.values():
        title += (
            f"\nprepared: {record['seeds']} seeds, {record['steps']} steps, {record['gradient_evaluations']} gradient "
            f"evaluations, {record['environment_steps']} environment steps, {record['seconds']:.1f} s"
        )
    return f"{title}\n\n{tabulate(rows, header, disable_numparse=True)}"
