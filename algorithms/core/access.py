"""What a learner may see of the others."""

import enum


class Access(enum.IntEnum):
    """What a learner may see of the others, from least to most."""

    ACTIONS = 0
    REWARDS = 1
    GRADIENTS = 2
    SIMULATOR = 3

    def __str__(self) -> str:
        return self.name.lower()


class AccessError(Exception):
    """A learner asked for more than its declared access."""
