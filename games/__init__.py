"""Games by name. A name is a class with its published numbers filled in.

Other packages add games through the entry-point group ``shaping_bench.games``; an entry
point loads either an :class:`Entry` or a game class whose fields all have defaults.
"""

from dataclasses import dataclass
from dataclasses import field as _field
from typing import Any

from shaping_bench.games.base import Game
from shaping_bench.games.cournot import Cournot
from shaping_bench.games.differentiable import Balduzzi, Hamiltonian, Logistic, OneShotGame, Tandem, Ultimatum
from shaping_bench.games.escape_room import PayingEscapeRoom
from shaping_bench.games.fishery import Fishery
from shaping_bench.games.grids.cleanup import Cleanup
from shaping_bench.games.grids.cleanup_lite import CleanupLite
from shaping_bench.games.grids.coin import CoinGame
from shaping_bench.games.grids.harvest import Harvest
from shaping_bench.games.grids.in_the_matrix import InTheMatrix
from shaping_bench.games.grids.in_the_matrix_repeated import InTheMatrixRepeated
from shaping_bench.games.lanes import Lanes
from shaping_bench.games.matrix.ordinal import OrdinalGame
from shaping_bench.games.matrix.public_goods import PublicGoods
from shaping_bench.games.matrix.repeated import RepeatedGame
from shaping_bench.games.matrix.rps import RockPaperScissors
from shaping_bench.games.matrix.tensor import Tensor
from shaping_bench.games.negotiation import Negotiation
from shaping_bench.games.point_mass import PointMass

__all__ = ["GAMES", "Entry", "Game", "make"]


@dataclass(frozen=True)
class Entry:
    """A named game: its class, the published numbers, and where they come from.

    Attributes:
      family: games for which hyperparameters that were published for one of them are a fair start;
        by default the class's.
    """

    cls: type[Game]
    source: str
    summary: str
    defaults: dict[str, Any] = _field(default_factory=dict)
    family: str | None = None

    def __post_init__(self) -> None:
        if self.family is None:
            object.__setattr__(self, "family", self.cls.family)


def _table(first: tuple[float, ...], second: tuple[float, ...]) -> dict[str, Any]:
    return {"payoffs": (first, second)}


GAMES: dict[str, Entry] = {
    "ipd": Entry(
        cls=RepeatedGame,
        source="LOLA paper, Table 1 and section 5.3",
        summary="iterated prisoner's dilemma",
        defaults=_table((-1.0, -3.0, 0.0, -2.0), (-1.0, 0.0, -3.0, -2.0)),
    ),
    "imp": Entry(
        cls=RepeatedGame,
        source="LOLA paper, Table 2 and section 5.3",
        summary="iterated matching pennies; player 1 wins on a match",
        defaults={**_table((1.0, -1.0, -1.0, 1.0), (-1.0, 1.0, 1.0, -1.0)), "gamma": 0.9},
    ),
    "chicken": Entry(
        cls=RepeatedGame,
        source="MeVa official code (payoffs), discount 0.96",
        summary="iterated chicken (hawk-dove); action 0 is to swerve",
        defaults=_table((0.0, -1.0, 1.0, -100.0), (0.0, 1.0, -1.0, -100.0)),
    ),
    "hawk-dove": Entry(
        cls=RepeatedGame,
        source="Melting Pot's chicken in the matrix (Leibo et al. 2021); discount 0.96",
        summary="iterated chicken whose worst outcome is bounded; action 0 is dove",
        defaults=_table((3.0, 2.0, 5.0, 0.0), (3.0, 5.0, 2.0, 0.0)),
    ),
    "stag-hunt": Entry(
        cls=RepeatedGame,
        source="payoffs in common use (Skyrms 2004, ordinal 4-3-2-1); discount 0.96",
        summary="iterated stag hunt; action 0 is to hunt the stag",
        defaults=_table((4.0, 1.0, 3.0, 2.0), (4.0, 3.0, 1.0, 2.0)),
    ),
    "bos": Entry(
        cls=RepeatedGame,
        source="payoffs in common use (Luce & Raiffa 1957, ordinal); discount 0.96",
        summary="iterated battle of the sexes; player 1 prefers action 0, player 2 action 1",
        defaults=_table((3.0, 0.0, 0.0, 2.0), (2.0, 0.0, 0.0, 3.0)),
    ),
    "matrix": Entry(
        RepeatedGame,
        "given by the user",
        "any repeated two-action game: payoffs=((CC,CD,DC,DD),(CC,CD,DC,DD))",
    ),
    "ordinal": Entry(
        OrdinalGame, "Rapoport & Guyer 1966", "any of the 78 games of two actions that rank outcomes strictly, iterated"
    ),
    "public-goods": Entry(
        PublicGoods, "linear public-goods game", "repeated n-player public goods, three players by default"
    ),
    "tensor": Entry(
        Tensor,
        "pax's N-player tensor games (Souly et al. 2023, arXiv 2312.12564), and textbook dilemmas",
        "repeated n-player game of the own action and the number of defectors: volunteers, stag hunts, any rows",
    ),
    "rps": Entry(
        RockPaperScissors,
        "Kim et al., ICML 2021, official code: discount 0.9",
        "iterated rock, paper, scissors: three actions, zero-sum",
    ),
    "tandem": Entry(Tandem, "SOS paper, Example 2", "two pedals, one pace: LOLA leaves its fixed points"),
    "matching-pennies": Entry(
        cls=OneShotGame,
        source="SOS official notebook, cell 3",
        summary="one-shot matching pennies; player 1 loses on a match",
        defaults=_table((-1.0, 1.0, 1.0, -1.0), (1.0, -1.0, -1.0, 1.0)),
    ),
    "chicken-one-shot": Entry(
        cls=OneShotGame,
        source="M-FOS and COLA official code",
        summary="one-shot chicken; action 0 is to swerve",
        defaults=_table((0.0, -1.0, 1.0, -100.0), (0.0, 1.0, -1.0, -100.0)),
    ),
    "matrix-one-shot": Entry(
        OneShotGame, "given by the user", "any one-shot two-action game: payoffs=((CC,CD,DC,DD),(CC,CD,DC,DD))"
    ),
    "ultimatum": Entry(Ultimatum, "COLA paper, section 4", "fair or unfair offer; accept or refuse the unfair one"),
    "balduzzi": Entry(Balduzzi, "COLA official code; Balduzzi et al. 2018", "weakly damped cycle"),
    "hamiltonian": Entry(Hamiltonian, "COLA official code; Balduzzi et al. 2018", "undamped cycle"),
    "logistic": Entry(Logistic, "MeVa paper, logistic game", "two basins, one preferred by both"),
    "coin-game": Entry(
        CoinGame,
        "Lerer & Peysakhovich 2017; conventions of LOQA's, POLA's, LOLA's, M-FOS's or JaxMARL's code, by preset",
        "two collectors on a torus; taking the other's coins pays oneself and costs the other more",
    ),
    "negotiation": Entry(
        Negotiation,
        "Duque et al., ICLR 2025, official code's history",
        "two players divide items by what they claim of each; claims are numbers, or whole ones",
    ),
    "cournot": Entry(
        Cournot, "pax (Souly et al. 2023, arXiv 2312.12564)", "N firms choose how much to make; the price falls with it"
    ),
    "fishery": Entry(
        Fishery,
        "pax (Souly et al. 2023, arXiv 2312.12564)",
        "N boats choose their efforts; the stock of fish grows back",
    ),
    "point-mass": Entry(
        PointMass,
        "Xie et al., CoRL 2020 (arXiv 2011.06619), code that descends from the authors'",
        "one player reaches for a hidden target that moves on by where the player has ended",
    ),
    "escape-room": Entry(
        PayingEscapeRoom,
        "Yang et al., NeurIPS 2020 (arXiv 2006.06051), official code of LIO",
        "somebody has to hold the lever for those who leave by the door, and to be paid for it",
        defaults={"payments": "minted"},
    ),
    "lanes": Entry(
        Lanes,
        "this benchmark, in the manner of the driving domain of Xie et al., CoRL 2020 (arXiv 2011.06619)",
        "one player passes a car that changes to a hidden lane, which depends on where the player was last",
    ),
    "in-the-matrix": Entry(
        InTheMatrix,
        "Khan et al., AAMAS 2024: rules of its code, pax, which are those of JaxMARL's storm_2p",
        "two collectors on a board, whose inventories are their strategies when they meet",
    ),
    "in-the-matrix-repeated": Entry(
        InTheMatrixRepeated,
        "rules and boards of the substrates in_the_matrix__repeated of Melting Pot (Leibo et al. 2021)",
        "the same on a board with walls, with inventories that are never empty and are paid for later",
    ),
    "harvest": Entry(
        Harvest,
        "rules and board of commons_harvest__open of Melting Pot (Leibo et al. 2021)",
        "two to seven gatherers of apples that grow back only where apples are left",
    ),
    "cleanup": Entry(
        Cleanup,
        "rules and board of clean_up of Melting Pot (Leibo et al. 2021)",
        "two to seven gatherers of apples that grow only while somebody cleans a river",
    ),
    "cleanup-lite": Entry(
        CleanupLite,
        "Meulemans et al., ICLR 2025 (arXiv 2410.18636), appendix B.1.2",
        "two on twenty cells: an orchard, a river that keeps it from bearing while it is dirty, and zaps",
    ),
}


def make(name: str, **hyperparameters: Any) -> Game:
    """Builds a registered game.

    >>> game = make("ipd", gamma=0.9)
    >>> game.payoffs[0]
    (-1.0, -3.0, 0.0, -2.0)
    """
    entry = GAMES[name]
    return entry.cls(**{**entry.defaults, **hyperparameters})
