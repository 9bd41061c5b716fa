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


def require(access: Access, level: Access, player: int, what: str) -> None:
    """Refuses a player what its learner has not declared that it sees.

    Raises:
      AccessError: ``access`` is below ``level``.
    """
    if access < level:
        raise AccessError(
            f"player {player + 1} asked for {what}, which needs access '{level}', "
            f"but its learner declares access '{access}'"
        )
