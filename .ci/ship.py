"""Ships a policy under a name, with what it gets from itself and from scripts.

python .ci/ship.py loqa-coin-1 results/loqa/cells/HASH             # the final one of seed 0, seat 1
python .ci/ship.py loqa-coin-1 results/loqa/cells/HASH 2 1 3000    # seed 2, seat 1, as it was after 3000 updates
"""

import json
import sys
from pathlib import Path

from shaping_bench.algorithms.parts.files import list_shipped, shipped
from shaping_bench.run import devices
from shaping_bench.run.shipping import measured, ship


def main(name: str, cell: str, *numbers: str) -> None:
    """Writes the file, and its entry of the list."""
    seed, seat, update = (*map(int, numbers), *(0, 1, 0)[len(numbers) :])
    entry = ship(name, Path(cell), seed=seed, seat=seat, update=update or None)
    entry = {**entry, "measured": measured(name, entry["game"])}
    list_shipped({**shipped(), name: entry})
    print(json.dumps(entry, indent=1))


if __name__ == "__main__":
    devices.configure()
    main(*sys.argv[1:])
