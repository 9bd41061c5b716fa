"""Strategies of the Axelrod library (Knight et al. 2016), by name, where that package is installed.

Those whose next action depends on the last round alone *are* memory-one policies: they become
one, exactly, and meet learners like any other fixed strategy. The others are Python objects that
remember as they like; they meet final policies in matches of Axelrod's own engine (see
``shaping_bench.run.axelrod_league``), not learners.
"""

import functools
import itertools
import re
import sys
import types
import warnings
from typing import Any

from shaping_bench.algorithms.core import field, pytree_dataclass
from shaping_bench.algorithms.fixed import FixedStrategy
from shaping_bench.games.base import Game

INSTALL = "pip install dask tqdm && pip install --no-deps axelrod==4.13.1"
"""Smallest set of packages beside our own dependencies with which Axelrod 4 can be imported; from
4.14 on its wheel holds 47 MB of a network's weights, and needs PyTorch."""

UNUSED = "dask.dataframe"
"""Axelrod imports it for files of interactions, which we neither write nor read; dask's needs pyarrow,
by which pandas would behave otherwise."""

HISTORIES = 5
"""Rounds of the longest histories on which a strategy is tried before it is called memory-one."""


@functools.cache
def package() -> Any:
    """The Axelrod library. Importing it takes ten seconds.

    Raises:
      ImportError: it cannot be imported; says what to install.
    """
    absent = UNUSED not in sys.modules
    if absent:
        sys.modules[UNUSED] = types.ModuleType(UNUSED)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import axelrod
    except ImportError as error:
        raise ImportError(f"needs the package axelrod, which cannot be imported ({error}); {INSTALL}") from None
    finally:
        if absent:
            del sys.modules[UNUSED]
    return axelrod


@functools.cache
def strategies() -> dict[str, Any]:
    """All strategies that obey Axelrod's rules, by the name they have there."""
    return {cls.name: cls for cls in package().strategies}


def player(name: str) -> Any:
    """A new player of that strategy, with its default parameters.

    Args:
      name: as Axelrod spells it; letter case, spaces and hyphens do not matter.

    Raises:
      ValueError: there is none of that name.
    """
    import difflib

    by_name = {_bare(known): cls for known, cls in strategies().items()}
    if _bare(name) not in by_name:
        near = difflib.get_close_matches(_bare(name), by_name, n=3, cutoff=0.4)
        names = ", ".join(repr(by_name[x].name) for x in near) or "a name of axelrod.strategies"
        raise ValueError(f"strategy is {name!r}; allowed: {len(by_name)} names of axelrod.strategies, e.g. {names}")
    return by_name[_bare(name)]()


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def payoffs_of(game: Game) -> Any:
    """The payoff table as Axelrod's game.

    Raises:
      ValueError: not a repeated game of two players and two actions.
    """
    import numpy as np

    if not game.memory_one or game.n_players != 2:
        raise ValueError("Axelrod's strategies play repeated two-action games of two players")
    first, second = ([float(x) for x in row] for row in game.payoffs)  # type: ignore[attr-defined]
    if game.symmetric:
        return package().Game(r=first[0], s=first[1], t=first[2], p=first[3])
    return package().game.AsymmetricGame(np.reshape(first, (2, 2)), np.reshape(second, (2, 2)))


def memory_one(name: str, payoffs: Any = None) -> tuple[float, ...] | None:
    """A strategy's probabilities of cooperating, ``(start, CC, CD, DC, DD)``, own action first.

    Read off Axelrod's memory-one players; a deterministic one of another class is asked what it
    does after every history of up to :data:`HISTORIES` rounds.

    Args:
      name: of the strategy.
      payoffs: Axelrod's game, on which some depend (its zero-determinant strategies).

    Returns:
      None if the strategy is not memory-one: it remembers more, or cooperates with some other
      probability.
    """
    axelrod = package()
    strategy = player(name)
    strategy.set_match_attributes(length=float("inf"), game=payoffs or axelrod.Game(), noise=0)
    cooperate, defect = axelrod.Action.C, axelrod.Action.D
    rounds = list(itertools.product((cooperate, defect), repeat=2))
    if isinstance(strategy, axelrod.MemoryOnePlayer):
        return (float(strategy._initial == cooperate), *(float(strategy._four_vector[x]) for x in rounds))
    if isinstance(strategy, axelrod.Random):
        return (float(strategy.p),) * 5
    if axelrod.Classifiers["stochastic"](strategy) or axelrod.Classifiers["memory_depth"](strategy) > 1:
        return None

    def answer(history: tuple[Any, ...]) -> float:
        asked, opponent = strategy.clone(), axelrod.MockPlayer([theirs for _, theirs in history] or None)
        for own, theirs in history:
            asked.strategy(opponent)  # some count their calls
            asked.history.append(own, theirs)
            opponent.history.append(theirs, own)
        return float(asked.strategy(opponent) == cooperate)

    table: dict[tuple[Any, ...], float] = {history: answer(history) for history in ((), *((x,) for x in rounds))}
    longer = itertools.chain.from_iterable(itertools.product(rounds, repeat=k) for k in range(2, HISTORIES + 1))
    if any(answer(history) != table[history[-1:]] for history in longer):
        return None
    return (table[()], *(table[(x,)] for x in rounds))


@functools.cache
def _fixed_table(name: str) -> tuple[float, ...]:
    """Probabilities of a memory-one strategy that does not look at the payoffs.

    Raises:
      ValueError: it is not one.
    """
    axelrod = package()
    table, other = memory_one(name), memory_one(name, axelrod.Game(r=4, s=-1, t=6, p=0))
    elsewhere = "; allowed in encounters: memory-one strategies (shaping-bench axelrod DIR plays all of them)"
    if table is None:
        raise ValueError(f"plays {name!r}, which remembers more than the last round{elsewhere}")
    if table != other:
        raise ValueError(f"plays {name!r}, which depends on the payoffs{elsewhere}; ours is zd-extort")
    return table


@pytree_dataclass
class AxelrodStrategy(FixedStrategy):
    """A memory-one strategy of the Axelrod library, e.g. ``axelrod(strategy='Firm But Fair')``."""

    source = "Axelrod library, Knight et al., Journal of Open Research Software 2016"

    strategy: str = field(doc="its name in Axelrod", static=True)

    def probabilities(self, game: Game, player: int) -> tuple[float, ...]:
        return _fixed_table(self.strategy)

    def check_game(self, game: Game, player: int) -> None:
        super().check_game(game, player)
        try:
            _fixed_table(self.strategy)
        except ImportError as error:
            raise ValueError(str(error)) from None
