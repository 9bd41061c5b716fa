"""How much one call of a compiled program does: what takes a few seconds.

Between two calls a run can leave a checkpoint, say how far it is, and stop. So calls must neither be
longer than one would like to lose, nor so short that the way in and out of the program shows.
"""

SECONDS = 2.0
"""What a call should take."""

GROWTH = 16
"""Times the length of a call that the next one may have at most: what a call took says little of one
that is much longer."""

MOST = 2**30
"""Updates of one call, at most: counts of updates are 32 bits wide."""


class Pace:
    """Finds out while a run goes on how many of its updates a call should do.

    >>> pace = Pace(seconds=2.0)
    >>> pace.updates
    1
    >>> pace.took(1, seconds=0.001)  # would be 2000; too far from what was seen
    >>> pace.updates
    16
    >>> pace.took(16, seconds=0.5)
    >>> pace.updates
    64

    Args:
      first: updates of the first call, of which nothing is known yet.
      seconds: what a call should take.
    """

    def __init__(self, first: int = 1, seconds: float = SECONDS) -> None:
        self.updates, self.seconds = max(1, first), seconds

    def took(self, updates: int, seconds: float) -> None:
        """Learns from a call of so many updates, which something else may have cut shorter."""
        fitting = updates * self.seconds / max(seconds, 1e-9)
        self.updates = int(max(1, min(fitting, max(GROWTH * updates, self.updates), MOST)))
