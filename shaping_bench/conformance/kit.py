"""The conformance kit: what the harness relies on, checked on anybody's class.

``shaping-bench check MODULE:CLASS`` runs it on an algorithm or a game and says what is missing
and how to mend it.

>>> from shaping_bench.algorithms.naive import Naive
>>> [str(finding) for finding in check_learner(Naive, thorough=False) if not finding.passed]
[]
"""

import importlib
import inspect
import sys

from shaping_bench.algorithms.core import Learner
from shaping_bench.conformance.findings import Finding
from shaping_bench.conformance.games import check_game, check_game_instance
from shaping_bench.conformance.learners import check_learner
from shaping_bench.errors import BadInput
from shaping_bench.games.base import Game
from shaping_bench.spec import registry

__all__ = ["Finding", "check_game", "check_game_instance", "check_learner", "check_target"]


def check_target(target: str) -> list[Finding]:
    """Checks ``MODULE:CLASS``, or a learner or game by its registered name.

    Raises:
      BadInput: the target cannot be imported or is neither a learner nor a game.
    """
    module, colon, name = target.partition(":")
    if not colon and target in registry.algorithms():
        return check_learner(registry.algorithms()[target])
    if not colon and target in registry.games():
        entry = registry.games()[target]
        return check_game(entry.cls, entry.defaults)
    if not colon or not module or not name:
        raise BadInput(
            f"check is {target!r}; allowed: MODULE:CLASS, e.g. shaping_bench.algorithms.lola:LOLA, or a name of "
            "`shaping-bench list`"
        )
    if "" not in sys.path:  # an installed command does not look where the user stands
        sys.path.insert(0, "")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BadInput(f"check is {target!r}, which cannot be imported ({error})") from None
    except Exception as error:  # whatever a module raises on import is its author's to mend
        raise BadInput(f"check is {target!r}, whose module fails on import ({type(error).__name__}: {error})") from None
    if not inspect.isclass(cls) or not issubclass(cls, Learner | Game):
        raise BadInput(f"check is {target!r}, which is neither a Learner nor a Game; allowed: a subclass of either")
    return check_learner(cls) if issubclass(cls, Learner) else check_game(cls)
