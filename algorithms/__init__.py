"""Learners by name.

Populations of fixed policies (``populations.py``) and strategies of Axelrod's library are named in
:data:`shaping_bench.spec.registry.ADAPTED`.

Other packages add theirs through the entry-point group ``shaping_bench.algorithms``.
"""

from shaping_bench.algorithms.adjustments import CGD, LSS, SGA, Consensus, Extragradient
from shaping_bench.algorithms.advantage_alignment import AA, AAPG, PAA
from shaping_bench.algorithms.aga import AgA
from shaping_bench.algorithms.basin_entry import BasinEntry
from shaping_bench.algorithms.brs import BRS, BRSExact
from shaping_bench.algorithms.coala_exact import COALAExact
from shaping_bench.algorithms.coala_pg import COALAPG
from shaping_bench.algorithms.cola import COLA
from shaping_bench.algorithms.core import Learner
from shaping_bench.algorithms.fixed import GTFT, TFT, WSLS, AllC, AllD, BestResponse, Grim, Random, ZDExtort
from shaping_bench.algorithms.further import FURTHER, LILIMatrix
from shaping_bench.algorithms.good_shepherd import GoodShepherd
from shaping_bench.algorithms.in_context import InContext, InContextPPI
from shaping_bench.algorithms.incentive_pg import IncentivePG
from shaping_bench.algorithms.lili import LILI
from shaping_bench.algorithms.lio import LIO
from shaping_bench.algorithms.lola import HOLA, LOLA, LOLAExact, LOLAFull, LookAhead
from shaping_bench.algorithms.lola_dice import LOLADiCE, LOLADiCEOM
from shaping_bench.algorithms.lola_pg import LOLAOM, LOLAPG
from shaping_bench.algorithms.loqa import LOQA, PairedLOQA
from shaping_bench.algorithms.m_maml import MMAML
from shaping_bench.algorithms.meta_mapg import MetaMAPG, MetaPG
from shaping_bench.algorithms.meta_mapg_sampled import MetaMAPGSampled
from shaping_bench.algorithms.meva import MeVa
from shaping_bench.algorithms.mfos import MFOS
from shaping_bench.algorithms.mfos_recurrent import MFOSRecurrent
from shaping_bench.algorithms.naive import Naive
from shaping_bench.algorithms.pbos import PBOS
from shaping_bench.algorithms.pola import POLA, POLAOM
from shaping_bench.algorithms.policy_gradient import NaivePG
from shaping_bench.algorithms.ppo import PPO
from shaping_bench.algorithms.q_learning import PHC, JointActionQ, NaiveQ, StatelessQ, WoLFPHC
from shaping_bench.algorithms.rational_adversary import RationalAdversary
from shaping_bench.algorithms.reciprocator import Reciprocator
from shaping_bench.algorithms.rili import RILI
from shaping_bench.algorithms.sac import SAC, SACOracle
from shaping_bench.algorithms.shaper import Shaper
from shaping_bench.algorithms.sos import SOS
from shaping_bench.algorithms.stackelberg import Stackelberg

__all__ = ["ALGORITHMS", "Learner"]

ALGORITHMS: dict[str, type[Learner]] = {
    "naive": Naive,
    "lookahead": LookAhead,
    "lola": LOLA,
    "lola-full": LOLAFull,
    "lola-exact": LOLAExact,
    "hola": HOLA,
    "cola": COLA,
    "sos": SOS,
    "sga": SGA,
    "consensus": Consensus,
    "cgd": CGD,
    "lss": LSS,
    "extragradient": Extragradient,
    "stackelberg": Stackelberg,
    "basin-entry": BasinEntry,
    "pbos": PBOS,
    "aga": AgA,
    "naive-pg": NaivePG,
    "lola-pg": LOLAPG,
    "lola-om": LOLAOM,
    "lola-dice": LOLADiCE,
    "lola-dice-om": LOLADiCEOM,
    "pola": POLA,
    "pola-om": POLAOM,
    "naive-q": NaiveQ,
    "stateless-q": StatelessQ,
    "jal-q": JointActionQ,
    "phc": PHC,
    "wolf-phc": WoLFPHC,
    "ppo": PPO,
    "loqa": LOQA,
    "loqa-paired": PairedLOQA,
    "aa": AA,
    "aa-pg": AAPG,
    "paa": PAA,
    "mfos": MFOS,
    "m-maml": MMAML,
    "meta-pg": MetaPG,
    "meta-mapg": MetaMAPG,
    "meta-mapg-sampled": MetaMAPGSampled,
    "good-shepherd": GoodShepherd,
    "mfos-recurrent": MFOSRecurrent,
    "shaper": Shaper,
    "reciprocator": Reciprocator,
    "coala-pg": COALAPG,
    "coala-exact": COALAExact,
    "in-context": InContext,
    "in-context-ppi": InContextPPI,
    "brs": BRS,
    "brs-exact": BRSExact,
    "meva": MeVa,
    "lio": LIO,
    "pg-incentive": IncentivePG,
    "rational-adversary": RationalAdversary,
    "sac": SAC,
    "sac-oracle": SACOracle,
    "lili": LILI,
    "rili": RILI,
    "further": FURTHER,
    "lili-matrix": LILIMatrix,
    "best-response": BestResponse,
    "all-c": AllC,
    "all-d": AllD,
    "tft": TFT,
    "gtft": GTFT,
    "wsls": WSLS,
    "grim": Grim,
    "random": Random,
    "zd-extort": ZDExtort,
}
