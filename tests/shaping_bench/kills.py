"""Processes that are killed (-9) while they run an encounter or a preparation, and what comes of it.

``kill_points`` is also for longer trials than the tests': it kills as often as it is told, at random moments.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SECONDS_OF_CALLS = 0.02
"""What a call takes at least: a process can then be killed at any moment of a run that is short."""

ENCOUNTER = ["encounter", "ipd", "lola", "naive", "--seeds", "4", "--steps", "400", "--record-every", "30", "--json"]


def _numbers(text: str) -> dict:
    """What a command printed, but for seconds."""
    return {key: x for key, x in json.loads(text).items() if key != "seconds"}


def _environment(folder: Path) -> dict[str, str]:
    # Compiled programs are shared, what is left of runs is not.
    from shaping_bench.run import devices

    compiled = {} if devices.cache_folder() is None else {"JAX_COMPILATION_CACHE_DIR": str(devices.cache_folder())}
    return {**os.environ, **compiled, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}


def _start(kind: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.shaping_bench.kills", kind, str(folder)]
    return subprocess.Popen(
        command, cwd=ROOT, env=_environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def kill_points(folder: Path, *, kind: str, count: int, seed: int, report=lambda text: None) -> int:
    """Kills a run so often, at random moments after its first checkpoint, and lets it end.

    Args:
      folder: what the processes leave lies below it.
      kind: ``"encounter"`` or ``"preparation"``.
      count: kills; a run that ends first is followed by another.
      seed: of the moments.
      report: told of every run that has ended.

    Returns:
      How often a process was killed.

    Raises:
      AssertionError: a run ended with other numbers than an undisturbed one.
    """
    moments = random.Random(seed)
    undisturbed = folder / f"{kind}-undisturbed"
    out, err = _start(kind, undisturbed).communicate()
    assert out, err
    expected = _numbers(out)
    kills = runs = 0
    while kills < count:
        disturbed = folder / f"{kind}-{runs}"
        killed = 0
        while True:
            process = _start(kind, disturbed)
            assert process.stderr is not None
            if kills < count:
                # Lines tell of calls: the run is under way.
                for _ in range(moments.randint(1, 30)):
                    if not process.stderr.readline():
                        break
                else:
                    time.sleep(moments.random() * SECONDS_OF_CALLS)
                    process.send_signal(signal.SIGKILL)
            out, err = process.communicate()
            if process.returncode == -signal.SIGKILL:
                kills, killed = kills + 1, killed + 1
                continue
            assert process.returncode == 0, err
            break
        assert _numbers(out) == expected, f"{kind} {runs} ended otherwise after {killed} kills"
        left = [path for path in disturbed.rglob("*") if "checkpoint" in path.name and path.is_file()]
        assert left == [], f"left: {left}"
        report(f"{kind} {runs}: killed {killed} times, the same numbers")
        runs += 1
    return kills


def _main(kind: str, folder: Path) -> int:
    """Runs it slowly, in short calls, with a checkpoint after each and a line of stderr."""
    from shaping_bench import cli
    from shaping_bench.run import checkpoints, devices, encounter, pace
    from shaping_bench.run import preparation as phase

    class Slow(pace.Pace):
        def __init__(self, first: int = 1) -> None:
            super().__init__(first=3)

        def took(self, updates: int, seconds: float) -> None:
            print("call", file=sys.stderr, flush=True)
            time.sleep(SECONDS_OF_CALLS)

    encounter.Pace = phase.Pace = Slow
    encounter._first_updates = lambda *_: 3
    checkpoints.Checkpoint.__init__.__defaults__ = (0.0,)
    if kind == "encounter":
        return cli.main(ENCOUNTER)
    from tests.shaping_bench.walker import preparation

    devices.configure()
    phase.POINTS = 20
    from shaping_bench.run.artifacts import Artifacts

    prepared = Artifacts(folder / "artifacts", checkpoint_seconds=0.0).prepared(preparation(num_steps=300))
    print(json.dumps({"artifact": prepared.artifact.tolist(), "curves": prepared.curves["value"].tolist()}))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], Path(sys.argv[2])))
