"""Co-players: whom one is prepared against, as a value."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture:
    """Several co-players, one of whom is met at a time.

    Attributes:
      learners: who; a learner, or a word that the field's ``choices`` explain.
      shares: how often each is met; positive, with sum 1.
    """

    learners: tuple[Any, ...]
    shares: tuple[float, ...]
