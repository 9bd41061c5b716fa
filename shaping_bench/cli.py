"""The command line: ``shaping-bench``, or ``python -m shaping_bench``.

Results go to stdout, progress to stderr. Exit codes: 0 done; 1 some cell failed (the
others are stored); 2 bad input, said in one line before anything ran; 75 stopped at a time
limit or by a scheduler's signal: the same command goes on.
"""

import contextlib
import gc
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter, Token
from cyclopts.exceptions import CycloptsError

from shaping_bench import __version__
from shaping_bench.errors import BadInput, OutOfTime, StoreError
from shaping_bench.run.deadline import Deadline, seconds_of, signals

app = App(
    name="shaping-bench",
    version=__version__,
    help="The benchmark of opponent shaping: run suites, compare learners, check published numbers.",
    suppress_keyboard_interrupt=False,  # what an interrupt leaves is said below
)

Kind = Literal["algorithms", "games", "metrics", "suites", "claims", "scenarios"]
Engine = Literal["local", "dask"]
Cluster = Literal["local", "ssh", "slurm"]
Format = Literal["md", "latex", "csv", "json", "html"]
SECONDS_TO_END = 2.0
"""Of a time limit, for starting a process and for ending it."""

Several = Parameter(consume_multiple=True, negative="")
Flag = Parameter(negative="")


def _whole(type_: Any, tokens: Sequence[Token]) -> int:
    """A whole number; cyclopts itself rounds ``1.5`` off, silently."""
    del type_
    try:
        return int(tokens[0].value)
    except ValueError:
        raise BadInput(f"{tokens[0].keyword} is {tokens[0].value!r}; allowed: a whole number") from None


def _size(type_: Any, tokens: Sequence[Token]) -> int:
    from shaping_bench.store.pack import bytes_of

    del type_
    return bytes_of(tokens[0].value, str(tokens[0].keyword))


def _deadline(type_: Any, tokens: Sequence[Token]) -> Deadline:
    """A time from now: imports and compilation count. A little of it is left for the process to end."""
    del type_
    seconds = seconds_of(tokens[0].value, str(tokens[0].keyword))
    return Deadline(seconds - min(SECONDS_TO_END, 0.1 * seconds))


def _seconds(type_: Any, tokens: Sequence[Token]) -> float:
    del type_
    return seconds_of(tokens[0].value, str(tokens[0].keyword))


Whole = Annotated[int, Parameter(converter=_whole)]
Size = Annotated[int, Parameter(converter=_size)]
Seconds = Annotated[float, Parameter(converter=_seconds)]
Limit = Annotated[Deadline, Parameter(converter=_deadline, accepts_keys=False)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    # Imports and tracing make millions of objects that stay: looking through them for cycles every 700
    # is a fifth of the time until the first result.
    gc.set_threshold(100_000, 20, 20)
    try:
        result = app(
            sys.argv[1:] if arguments is None else list(arguments),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
        return int(result or 0)
    except (BadInput, CycloptsError) as error:
        said = error.__cause__ if isinstance(error.__cause__, BadInput) else error
        print(f"shaping-bench: {_one_line(said)}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"shaping-bench: {_one_line(error)}", file=sys.stderr)
        return 1
    except OutOfTime as error:
        print(f"shaping-bench: {_one_line(error)}; {_how_to_go_on(error)}", file=sys.stderr)
        return 75
    except KeyboardInterrupt as error:
        what = f"{error.__cause__ or 'finished cells are stored'}, the same command goes on"
        print(f"shaping-bench: interrupted; {what}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _how_to_go_on(stop: OutOfTime) -> str:
    if stop.further:
        return "the same command goes on"
    return "nothing got further: there was no time for one call of a compiled program; allowed: more time"


@contextlib.contextmanager
def _until(limit: Deadline | None) -> Iterator[Deadline]:
    """The deadline of a command: its time limit, the signals that schedulers send before the end, and
    the first Ctrl-C, which remains an interrupt but for what runs being left at a checkpoint."""
    deadline = limit or Deadline()
    with signals(deadline, _say_of):
        try:
            yield deadline
        except OutOfTime as stop:
            if deadline.reason == "SIGINT":
                raise KeyboardInterrupt from stop
            raise


def _say_of(signal: str) -> None:
    if signal == "SIGINT":
        # Past Python's buffers, which the signal may have come in the middle of.
        os.write(2, b"\nshaping-bench: stopping at a checkpoint; Ctrl-C again stops at once\n")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def _positive(name: str, value: int, low: int = 1) -> None:
    if value < low:
        raise BadInput(f"{name} is {value}; allowed: a whole number of at least {low}")


@app.command(name="list")
def list_command(what: Kind | None = None, /, *, json: Annotated[bool, Flag] = False) -> None:
    """What exists: algorithms, games, metrics, suites, claims and scenarios.

    Parameters
    ----------
    what:
        Only this kind.
    json:
        Print JSON.
    """
    from shaping_bench.publish.catalogue import catalogue, to_text

    found = catalogue([what] if what else None)
    if json:
        _print_json(found[what] if what else found)
    else:
        print(to_text(found))


@app.command
def run(
    suite: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    seeds: Whole | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative="")] = None,
    wandb: Literal["offline", "online", "disabled"] = "offline",
    engine: Engine = "local",
    scheduler: str | None = None,
    cluster: Cluster | None = None,
    cluster_file: Path | None = None,
    time_limit: Limit | None = None,
) -> int:
    """Run what is not yet stored of a suite; safe to interrupt and repeat.

    Parameters
    ----------
    suite:
        A name (see `shaping-bench list suites`) or a path to a YAML file.
    output:
        Results directory; results/NAME by default.
    seeds:
        Number of seeds, instead of the suite's.
    set_:
        PATH=VALUE: change the suite, e.g. games.0.steps=50.
    wandb:
        Where Weights & Biases records go: files in the results directory, the server, or nowhere.
    engine:
        Where cells run: in this process, or on workers of dask, here or elsewhere.
    scheduler:
        Of the engine dask: address of a scheduler that is there, HOST:PORT; `shaping-bench worker` starts its workers.
    cluster:
        Or what is to be started: processes on this machine (the default), workers on hosts by ssh, jobs of Slurm.
    cluster_file:
        YAML file of settings; `shaping-bench cluster ssh` prints all there are, with their defaults.
    time_limit:
        Stop at checkpoints within this time, with exit code 75: 55m, 1h30m, 90s, HH:MM:SS. The same command goes on.
    """
    with _until(time_limit) as deadline:
        from shaping_bench.run import devices
        from shaping_bench.spec.suite import load

        if seeds is not None:
            _positive("--seeds", seeds)
        options = {"scheduler": scheduler, "cluster": cluster, "file": cluster_file}
        given = {name: value for name, value in options.items() if value is not None}
        if given and engine != "dask":
            name = next(iter(given)).replace("file", "cluster-file")
            raise BadInput(f"--{name} is given and --engine is {engine!r}; allowed: --engine dask")
        resolved = load(suite, set_ or (), seeds)
        directory = output or Path("results") / resolved.file.name
        devices.configure()
        from shaping_bench.commands import run_and_report
        from shaping_bench.engines import ENGINES

        return run_and_report(resolved, directory, wandb, ENGINES[engine](**given), deadline)


@app.command
def cluster(kind: Cluster, /) -> None:
    """Print all settings of a kind of cluster with their defaults, as a file for `run --cluster-file`.

    Parameters
    ----------
    kind:
        What `run --cluster` takes.
    """
    from shaping_bench.engines.clusters import settings_text

    print(settings_text(kind), end="")


@app.command
def worker(
    address: str,
    /,
    *,
    cores: Annotated[Whole | None, Parameter(name=["--cores", "--nthreads"])] = None,
    gpus: Whole | None = None,
    jobs_per_gpu: Whole = 1,
    memory: Annotated[Size | None, Parameter(name=["--memory", "--memory-limit"])] = None,
    name: str | None = None,
    time_limit: Seconds | None = None,
    patience: Annotated[Seconds, Parameter(name=["--patience", "--death-timeout"])] = 60.0,
    quiet: Seconds = 3600.0,
    leash: Annotated[bool, Flag] = False,
) -> int:
    """Serve a dask scheduler with worker processes: one per GPU, and one per core that these leave.

    SIGTERM, SIGUSR1 and Ctrl-C stop the jobs at checkpoints, from which other workers go on.

    Parameters
    ----------
    address:
        Of the scheduler, HOST:PORT.
    cores:
        Cores to use, those of GPU processes included; all by default.
    gpus:
        GPUs to use; all by default.
    jobs_per_gpu:
        Processes that share a GPU and its memory.
    memory:
        What all processes may take together, e.g. 16GB; no limit by default.
    name:
        Of this worker, unlike any other's.
    time_limit:
        End after this time, at checkpoints: 55m, 1h30m, 90s, HH:MM:SS.
    patience:
        How long to wait for a scheduler, at first and whenever it is lost.
    quiet:
        A process whose job shows no progress for so long is ended, and another started.
    leash:
        End with the standard input, too.
    """
    from shaping_bench.engines.clusters import need_dask

    need_dask()
    from shaping_bench.engines.workers import work

    for option, value, low in (("--cores", cores, 1), ("--gpus", gpus, 0), ("--jobs-per-gpu", jobs_per_gpu, 1)):
        if value is not None:
            _positive(option, value, low)
    return work(
        address,
        name=name,
        cores=cores,
        gpus=gpus,
        jobs_per_gpu=jobs_per_gpu,
        memory=memory,
        seconds=time_limit,
        patience=patience,
        quiet=quiet,
        leash=leash,
    )


@app.command
def plan(
    suite: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    seeds: Whole | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative="")] = None,
    json: Annotated[bool, Flag] = False,
) -> None:
    """What is left to do of a suite: its jobs, the hours they take by kind of device, and what is stored.

    Nothing is computed, and no device is touched. Hours are those of jobs like them that this user, or the results
    directory, has seen.

    Parameters
    ----------
    suite:
        A name (see `shaping-bench list suites`) or a path to a YAML file.
    output:
        Results directory; results/NAME by default. It need not be there.
    seeds:
        Number of seeds, instead of the suite's.
    set_:
        PATH=VALUE: change the suite, e.g. games.0.steps=50.
    json:
        Print JSON: every job with its key, what it waits for, seconds by kind of device, and memory.
    """
    from shaping_bench.commands import plan_command
    from shaping_bench.spec.suite import load

    if seeds is not None:
        _positive("--seeds", seeds)
    resolved = load(suite, set_ or (), seeds)
    print(plan_command(resolved, output or Path("results") / resolved.file.name, json))


@app.command
def status(directory: Path, /, *, json: Annotated[bool, Flag] = False) -> None:
    """How the runs of a results directory get on: cells, workers, retries, losses, the slowest, failures.

    Parameters
    ----------
    directory:
        A results directory, also one that a run is writing to now.
    json:
        Print JSON.
    """
    from shaping_bench.commands import status_command

    print(status_command(directory, json))


@app.command
def encounter(
    game: str,
    learner: str,
    /,
    *more: str,
    seeds: Whole = 100,
    steps: Whole = 200,
    seed: Whole = 0,
    init: Path | None = None,
    precision: Literal["float32", "float64"] = "float32",
    record_every: Whole | None = None,
    episodes: Whole | None = None,
    preparations: Whole = 1,
    starts: Literal["drawn", "grid"] = "drawn",
    artifacts: Path | None = None,
    set_: Annotated[list[str] | None, Parameter(name="--set", consume_multiple=True, negative="")] = None,
    wandb: Literal["offline", "online", "disabled"] = "disabled",
    seats_apart: Annotated[bool, Flag] = False,
    time_limit: Limit | None = None,
    keep_state: Annotated[bool, Flag] = False,
    json: Annotated[bool, Flag] = False,
) -> int:
    """One encounter: learners meet in a game. One learner means self-play.

    Parameters
    ----------
    game:
        A game, e.g. ipd or 'ipd(gamma=0.9)'.
    learner:
        A learner, e.g. naive or 'lola(lr=0.5,lookahead_lr=1.0)'.
    more:
        The other players' learners.
    seeds:
        Number of seeds, run at once.
    steps:
        Number of simultaneous updates.
    seed:
        Base of the random numbers.
    init:
        JSON file with initial policy parameters, one list of numbers per player, for every seed.
    precision:
        Floating point of the updates (metrics are always float64).
    record_every:
        Updates between recorded points; the start and the end by default.
    episodes:
        Episodes that value policies by play, where the game has no exact values; 32 by default.
    preparations:
        Seeds from which learners that prepare are prepared; the encounter's seeds share them.
    starts:
        Where policies begin: as learners draw them, or, with 441 seeds say, at the points of a grid of 21 x 21.
    artifacts:
        Where preparations are kept and looked for; by default in the user's cache.
    set_:
        NAME=VALUE: hyperparameters of the first learner, e.g. lr=0.3; they win over those in its name.
    wandb:
        Log the outcome to Weights & Biases as one run; WANDB_MODE wins over this.
    seats_apart:
        Let every seat learn on a device of its own, on CPUs on a core: few seeds of learners that play are done
        sooner. Last bits are other ones.
    time_limit:
        Stop at a checkpoint within this time, with exit code 75: 55m, 1h30m, 90s, HH:MM:SS. The same command goes on.
    keep_state:
        Keep in the user's cache where it ended: the same command with more --steps goes on from there.
    json:
        Print one JSON object.
    """
    with _until(time_limit) as deadline:
        from shaping_bench.commands import encounter_result, encounter_text, read_init
        from shaping_bench.run import devices
        from shaping_bench.run.starts import initial as grid
        from shaping_bench.spec import registry
        from shaping_bench.spec.protocol import EPISODES, Protocol

        protocol = Protocol.from_options(
            seeds=seeds,
            seed=seed,
            steps=steps,
            record_every=record_every,
            precision=precision,
            episodes=EPISODES if episodes is None else episodes,
            preparations=preparations,
            starts=starts,
        )
        named = registry.make_game(game)
        learners = [registry.with_settings(learner, set_ or (), named.name)]
        learners += [registry.make_learner(text, game=named.name) for text in more]
        if len(learners) == 1:
            learners *= named.value.n_players
        registry.check_encounter(named, learners)
        if init and starts != "drawn":
            raise BadInput(f"--init and --starts {starts} are given; allowed: one of them")
        start = read_init(init, named.value) if init else grid(starts, named.value, [x.value for x in learners], seeds)
        devices.configure(cpu_devices=max(devices.CPU_DEVICES, named.value.n_players if seats_apart else 0))
        result = encounter_result(
            named,
            learners,
            protocol,
            init=start,
            artifacts=artifacts,
            seats_apart=seats_apart,
            deadline=deadline,
            keep_state=keep_state,
        )
    if os.environ.get("WANDB_MODE", wandb) != "disabled":
        from shaping_bench.publish.tracking import log_encounter

        log_encounter({**result, "hyperparameters": [x.hyperparameters for x in learners]}, wandb)
    if json:
        _print_json(result)
    else:
        print(encounter_text(result))
    return 0


@app.command
def sweep(
    game: str,
    learner: str,
    /,
    *more: str,
    over: Annotated[list[str] | None, Parameter(consume_multiple=True, negative="")] = None,
    method: Literal["bayes", "random", "grid"] = "bayes",
    metric: str = "return",
    goal: Literal["maximize", "minimize"] | None = None,
    seeds: Whole = 100,
    steps: Whole = 200,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
) -> None:
    """Write a file for `wandb sweep`: a search over the first learner's hyperparameters.

    `wandb sweep FILE` registers it and names the agent's command; each of an agent's runs is one encounter.

    Parameters
    ----------
    game:
        A game.
    learner:
        The learner to be tuned, as player 1.
    more:
        The other players' learners; none means self-play.
    over:
        NAME=LOW:HIGH, NAME=log:LOW:HIGH, NAME=V1,V2,... or NAME alone, which asks the learner for its range.
    method:
        How W&B chooses the next values.
    metric:
        What is to be made better: player 1's mean over seeds.
    goal:
        Which way is better, if not as the metric says.
    seeds:
        Seeds of each encounter.
    steps:
        Updates of each encounter.
    output:
        The file to write; printed if none is given.
    """
    import yaml

    from shaping_bench.analysis.sweeps import wandb_sweep

    _positive("--seeds", seeds)
    _positive("--steps", steps, 0)
    options = ("--seeds", str(seeds), "--steps", str(steps))
    config = wandb_sweep(game, learner, more, over or (), method=method, metric=metric, goal=goal, options=options)
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise BadInput(f"--output is {str(output)!r}, which cannot be written ({error.strerror})") from None
    print(f"{output}: register it with `wandb sweep {output}`")


@app.command
def upload(directory: Path, /, *, dry_run: Annotated[bool, Flag] = False) -> int:
    """Upload a suite's offline Weights & Biases records that are not uploaded yet, by `wandb sync`.

    Parameters
    ----------
    directory:
        A results directory.
    dry_run:
        Only say what would be uploaded.
    """
    from shaping_bench.publish.tracking import upload as upload_records

    return upload_records(directory, dry_run)


@app.command
def score(
    learner: str,
    /,
    *more: str,
    track: str = "exact",
    tier: str = "quick",
    split: Literal["train", "validation", "test"] = "test",
    games: Annotated[list[str] | None, Several] = None,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    alone: Annotated[bool, Flag] = False,
    time_limit: Limit | None = None,
    json: Annotated[bool, Flag] = False,
) -> int:
    """The card of learners beside the reference rows: who cooperates, shapes, adapts, is safe, and at what cost.

    Parameters
    ----------
    learner:
        A learner, e.g. my-rule or 'lola(lr=0.5)'.
    more:
        Others to put beside it.
    track:
        Who can be compared: exact (derivatives of exact values), sampled (play), deep (networks), incentives
        (games with payments), latent (one seat in a world that adapts), dilemmas (boards, and three players), groups
        (exact, three players) or markets (amounts instead of actions).
    tier:
        A budget: quick or standard.
    split:
        Which backgrounds are drawn: test is what is reported, validation is for tuning, train for preparing.
    games:
        Those of the track's games that are asked, e.g. ipd; all by default, which is what is cited.
    output:
        Where cells are stored; results/score by default. Only what is not stored is computed.
    alone:
        Without the reference rows.
    time_limit:
        Stop at checkpoints within this time, with exit code 75: 55m, 1h30m, 90s, HH:MM:SS. The same command goes on.
    json:
        Print one JSON object.
    """
    from shaping_bench.run import devices

    devices.configure()
    from shaping_bench import scoring
    from shaping_bench.publish import cards

    with _until(time_limit) as deadline:
        made, failures = scoring.score(
            [learner, *more],
            track=track,
            tier=tier,
            split=split,
            games=games,
            directory=output or Path("results") / "score",
            alone=alone,
            deadline=deadline,
        )
    if json:
        _print_json(made.plain())
    else:
        print(cards.text(made))
    return 1 if failures else 0


@app.command
def reference(
    *learners: str,
    check: Annotated[bool, Flag] = False,
    update: Annotated[bool, Flag] = False,
    track: str | None = None,
    tier: str | None = None,
    cells: Whole = 50,
    seconds: float | None = None,
    seed: Whole = 0,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    json: Annotated[bool, Flag] = False,
) -> int:
    """What reference results are shipped, by which command, commit and device.

    Parameters
    ----------
    learners:
        Of an update, the rules; those that the track's file names by default.
    check:
        Compute a random sample of their cells again and compare.
    update:
        Compute what is not stored and write all of them, anchors included.
    track:
        Of a check or an update, only this one; all by default.
    tier:
        Of an update, the budget; by default those of which results are shipped, or that of most seeds.
    cells:
        Of the sample, of each track and tier.
    seconds:
        Of each track and tier fewer cells, where they took longer than this when they were made; one at least.
    seed:
        Of the sample.
    output:
        Where cells are stored; results/reference by default, of a check a folder that is removed.
    json:
        Print JSON.
    """
    from shaping_bench.run import devices

    devices.configure()
    from shaping_bench import scoring

    _positive("--cells", cells)
    given = {"learners": ", ".join(learners), "--tier": tier, **({} if check else {"--track": track})}
    for name, value in given.items():
        if value and not update:
            raise BadInput(f"{name} is {value!r} without --update; allowed: none")
    if update:
        scoring.update_reference(output or Path("results") / "reference", learners, track=track, tier=tier)
    found = scoring.reference_rows(
        scoring.check_reference(cells, seed, output, track=track, seconds=seconds) if check else {}
    )
    if json:
        _print_json(found)
    else:
        print(scoring.reference_text(found))
    return 1 if any(row.get("differ") for row in found) else 0


@app.command
def table(
    directory: Path,
    /,
    *,
    metric: Annotated[list[str] | None, Several] = None,
    format: Format = "md",
    rows: str = "learner",
    cols: str = "opponent",
    kind: Literal["encounter", "league", "all"] = "all",
    statistic: Literal["mean", "median", "iqm"] = "mean",
    spread: Literal["std", "se", "ci", "none"] = "std",
    show_n: Annotated[bool, Flag] = False,
    bold: bool = True,
    cards: Annotated[bool, Flag] = False,
) -> None:
    """Comparison tables from stored results; nothing is computed again.

    Parameters
    ----------
    directory:
        A results directory.
    metric:
        Metrics to show; the suite's by default.
    format:
        Markdown, LaTeX (booktabs), CSV, JSON or HTML; all show the same digits.
    rows:
        What the rows are: learner, opponent, game or metric.
    cols:
        What the columns are.
    kind:
        Learning encounters, the league of final policies, or both.
    statistic:
        Of the runs: mean, median or interquartile mean.
    spread:
        Standard deviation over seeds, standard error, 95 % bootstrap interval, or none.
    show_n:
        Say of every number how many runs it is from.
    bold:
        Mark the best learner against each opponent and all that its runs do not tell apart from it.
    cards:
        Instead, the suite's cards: scores, shares by scenario, ranks, probability of improvement.
    """
    from shaping_bench.publish.tables import table_command

    text = table_command(
        directory,
        metric,
        format,
        rows=rows,
        cols=cols,
        kind=None if kind == "all" else kind,
        cards=cards,
        statistic=statistic,
        spread=spread,
        show_n=show_n,
        bold=bold,
    )
    print(text)


@app.command
def metagame(directory: Path, /, *, game: str | None = None, format: Format = "md") -> None:
    """Learning rules as the actions of a game: equilibria, alpha-rank, who gains by adopting which.

    Parameters
    ----------
    directory:
        A results directory.
    game:
        Only this game; all in which the rules met each other and themselves by default.
    format:
        Markdown, LaTeX (booktabs), CSV, JSON or HTML; all show the same digits.
    """
    from shaping_bench.publish.metagame_tables import meta_game_command

    print(meta_game_command(directory, game, format))


@app.command
def figures(
    directory: Path,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    format: Literal["pdf", "svg", "png"] = "pdf",
    game: str | None = None,
) -> None:
    """Draw the results for a paper, at the width of its columns, and print the files' paths.

    Per game: learning curves, cross-play, performance profiles, aggregates, the meta-game and who gains by
    adopting which rule. Of games whose labels end in their number of players, gains by that number. And cards.

    Parameters
    ----------
    directory:
        A results directory.
    output:
        The folder to write into; DIRECTORY/figures by default.
    format:
        PDF or SVG, which are drawn, or PNG.
    game:
        Only this game.
    """
    from shaping_bench.publish.figures import write_figures

    for path in write_figures(directory, output or directory / "figures", format, game):
        print(path, flush=True)


@app.command
def schelling(
    game: str,
    /,
    *,
    cooperator: str = "all-c",
    defector: str = "all-d",
    episodes: Whole = 64,
    seeds: Whole = 1,
    steps: Whole = 200,
    seed: Whole = 0,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    json: Annotated[bool, Flag] = False,
) -> None:
    """The Schelling diagram of a game: what a cooperator and a defector get, by how many others cooperate.

    Says of the two policies whether the game is a social dilemma: whether all cooperating beats all defecting and
    cooperating alone, and whether defecting pays out of fear or out of greed.

    Parameters
    ----------
    game:
        A game of several players, e.g. 'tensor(preset=stag_hunt,num_players=5)'.
    cooperator:
        Who counts as cooperating: a fixed strategy, or a rule that learns, which is first trained by itself where all
        are paid the mean.
    defector:
        Who counts as defecting; a rule that learns is first trained by itself on the rewards as they are.
    episodes:
        For each number of cooperators, with seats drawn anew, where values are not exact.
    seeds:
        Of training.
    steps:
        Updates of training.
    seed:
        Base of the random numbers.
    output:
        Draw it into this file, too: .pdf, .svg or .png.
    json:
        Print one JSON object.
    """
    from shaping_bench.run import devices
    from shaping_bench.spec import registry

    for option, value, low in (
        ("--episodes", episodes, 2),
        ("--seeds", seeds, 1),
        ("--steps", steps, 1),
        ("--seed", seed, 0),
    ):
        _positive(option, value, low)
    named = registry.make_game(game)
    kinds = [
        registry.make_learner(text, field, named.name)
        for field, text in (("--cooperator", cooperator), ("--defector", defector))
    ]
    devices.configure()
    from shaping_bench.analysis.schelling import diagram
    from shaping_bench.publish import schelling as published

    if output is not None:
        published.format_of(output)
    found = diagram(named, *kinds, episodes=episodes, seeds=seeds, steps=steps, seed=seed)
    if output is not None:
        published.write(found, output)
    if json:
        _print_json(found.plain())
    else:
        print(published.text(found))


@app.command
def cite(*what: str) -> None:
    """BibTeX of everything that results, methods or games rest on, and of shaping-bench itself.

    Parameters
    ----------
    what:
        Results directories, registered algorithms and games, or topics: statistics, metagame.
    """
    from shaping_bench.publish.references import cite as citations

    print(citations(what))


@app.command
def report(directory: Path, /, *, output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None) -> None:
    """Write the results as one self-contained HTML page and print its path.

    Parameters
    ----------
    directory:
        A results directory.
    output:
        The file to write; DIRECTORY/report.html by default.
    """
    from shaping_bench.publish.report import write_report

    print(write_report(directory, output))


@app.command
def axelrod(
    directory: Path,
    /,
    *strategies: str,
    turns: Whole = 200,
    matches: Whole = 1,
    seed: Whole = 0,
) -> None:
    """Let the final policies of a suite's league meet strategies of the Axelrod library, and print the league.

    Needs the package axelrod. What is stored already is kept.

    Parameters
    ----------
    directory:
        Results of a suite with a league.
    strategies:
        Names as Axelrod spells them, e.g. 'Tit For 2 Tats'; by default those of Axelrod's first tournament.
    turns:
        Rounds of a match.
    matches:
        Matches per final policy.
    seed:
        Base of their random numbers.
    """
    from shaping_bench.commands import progress_line
    from shaping_bench.publish.tables import table_command
    from shaping_bench.run.axelrod_league import play_league

    _positive("--turns", turns)
    _positive("--matches", matches)
    _positive("--seed", seed, 0)
    with progress_line() as say:
        play_league(directory, strategies, turns=turns, matches=matches, seed=seed, say=say)
    print(table_command(directory, ["return"], kind="league"))


@app.command
def verify(
    *claims: str,
    paper: Annotated[list[str] | None, Parameter(negative="")] = None,
    full: Annotated[bool, Flag] = False,
    record: Path | None = None,
    time_limit: Limit | None = None,
    json: Annotated[bool, Flag] = False,
) -> int:
    """Re-run published protocols: published number, ours, spread, verdict.

    Exit code 1 if a number is missed.

    Parameters
    ----------
    claims:
        Claims to check (see `shaping-bench list claims`), or patterns such as 'sos-*'; all by default.
    paper:
        All claims of a paper: a file in configs/claims, e.g. loqa, or a BibTeX key; may be given several times.
    full:
        Run the published budgets where the protocols state smaller ones, made for two cores.
    record:
        JSON file to write the verdicts to as they come; those of other claims in it are kept.
    time_limit:
        Stop at a checkpoint within this time, with exit code 75: 55m, 1h30m, 90s, HH:MM:SS. The same command goes on.
    json:
        Print JSON.
    """
    with _until(time_limit) as deadline:
        from shaping_bench.claims.files import select
        from shaping_bench.claims.record import to_json, to_text
        from shaping_bench.claims.verify import verify as check_claims
        from shaping_bench.commands import preparation_progress, progress_line
        from shaping_bench.run import devices
        from shaping_bench.run.artifacts import Artifacts
        from shaping_bench.run.checkpoints import prune

        chosen = select(claims, paper or ())
        devices.configure()
        prune(devices.checkpoints_folder())
        with progress_line() as say:
            folder = devices.artifacts_folder()
            verdicts = check_claims(
                chosen,
                on_progress=say,
                full=full,
                artifacts=Artifacts(folder, on_point=preparation_progress(say), deadline=deadline),
                record=record,
                deadline=deadline,
                checkpoints=devices.checkpoints_folder(),
            )
    if json:
        _print_json(to_json(verdicts))
    else:
        print(to_text(verdicts))
    return 0 if all(v.verdict == "reproduced" for v in verdicts) else 1


@app.command(name="pack")
def pack_command(
    directory: Path,
    file: Path | None = None,
    /,
    *,
    cache: Annotated[bool, Flag] = False,
    part_size: Size | None = None,
) -> None:
    """Write results, artifacts and checkpoints as one file, which another machine goes on from.

    Encounters and claims go on from the user's cache: `shaping-bench pack --cache FILE`.

    Parameters
    ----------
    directory:
        A results directory, which may be in use. With --cache the only argument is FILE.
    file:
        The file to write, a tar; one of that name is replaced.
    cache:
        Pack the user's cache instead: preparations, and checkpoints of encounters and claims.
    part_size:
        Write FILE.001, FILE.002, ... of at most this size, e.g. 500MB.
    """
    from shaping_bench.run import devices
    from shaping_bench.store.pack import pack

    if cache == (file is not None):
        raise BadInput("pack needs a directory and a file; allowed: pack DIR FILE, or pack --cache FILE")
    source, path = (devices.artifacts_folder().parent, directory) if file is None else (directory, file)
    package = pack(source, path, part_size)
    size = f"{package.size / 1e6:.1f} MB" if package.size >= 1e6 else f"{package.size / 1e3:.1f} kB"
    rest = f" to {package.paths[-1].name}" if len(package.paths) > 1 else ""
    print(f"{package.paths[0]}{rest}: {_listed(package.counts)}; {size}")


@app.command(name="unpack")
def unpack_command(
    file: Path,
    directory: Path | None = None,
    /,
    *,
    cache: Annotated[bool, Flag] = False,
) -> int:
    """Merge a packed file into a results directory; the same command goes on there.

    Cells that stand there already are kept. Exit code 1 if one of them has other numbers.

    Parameters
    ----------
    file:
        What `pack` wrote, or the first of its parts.
    directory:
        A directory of the same suite, or a new one; none with --cache.
    cache:
        Merge into the user's cache instead.
    """
    from shaping_bench.run import devices
    from shaping_bench.spec.suite import resolve
    from shaping_bench.store.pack import unpack

    if cache == (directory is not None):
        raise BadInput("unpack needs a file and a directory; allowed: unpack FILE DIR, or unpack --cache FILE")
    target = devices.artifacts_folder().parent if directory is None else directory
    merger = unpack(file, target, resolve, "cache" if cache else None)
    kept = f"; kept, as they stand already: {_listed(merger.old)}" if any(merger.old.values()) else ""
    print(f"{target}: {_listed(merger.new)} taken over{kept}")
    for unit in merger.conflicts:
        print(f"shaping-bench: {target / unit} has other numbers than {file} and was kept", file=sys.stderr)
    return 1 if merger.conflicts else 0


def _listed(counts: Mapping[str, int]) -> str:
    words = [f"{n} {name}{'s' if n > 1 else ''}" for name, n in counts.items() if n]
    return ", ".join(words) or "nothing"


@app.command
def check(target: str, /) -> int:
    """Check your own algorithm or game against the conformance kit.

    Exit code 1 if something is missing.

    Parameters
    ----------
    target:
        MODULE:CLASS, e.g. my_package.my_rule:MyRule, or a registered name.
    """
    from shaping_bench.conformance.kit import check_target
    from shaping_bench.run import devices

    devices.configure()
    findings = check_target(target)
    for finding in findings:
        print(finding)
    return 0 if all(f.passed for f in findings) else 1


new = App(name="new", help="Write a working algorithm or game to change, with its test and its suite.")
app.command(new)

Folder = Annotated[Path | None, Parameter(name=["-o", "--output"])]


@new.command(name="algorithm")
def new_algorithm(
    name: str,
    /,
    *,
    sampled: Annotated[bool, Flag] = False,
    prepares: Annotated[bool, Flag] = False,
    output: Folder = None,
) -> None:
    """Write a small working algorithm, its test and its suite; says what to do next.

    Parameters
    ----------
    name:
        What suites and tables will call it, e.g. my-rule.
    sampled:
        It learns from play instead of exact gradients.
    prepares:
        It learns something before it meets anyone.
    output:
        A checkout of this repository, or the folder of a package; by default here in a checkout, else ./NAME.
    """
    from shaping_bench.scaffold import scaffold

    if sampled and prepares:
        raise BadInput("--sampled and --prepares are given; allowed: one of them, or neither for an exact rule")
    print(scaffold.new("sampled" if sampled else "prepares" if prepares else "exact", name, output))


@new.command(name="game")
def new_game(name: str, /, *, output: Folder = None) -> None:
    """Write a small working game, its test and its suite; says what to do next.

    Parameters
    ----------
    name:
        What suites and tables will call it, e.g. my-game.
    output:
        A checkout of this repository, or the folder of a package; by default here in a checkout, else ./NAME.
    """
    from shaping_bench.scaffold import scaffold

    print(scaffold.new("game", name, output))


if __name__ == "__main__":
    sys.exit(main())
