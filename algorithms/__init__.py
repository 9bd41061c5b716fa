"""Learners by name.

Other packages add theirs through the entry-point group ``shaping_bench.algorithms``.
"""

from algorithms.adjustments import CGD, LSS, SGA, Consensus, Extragradient
from algorithms.base import Learner
from algorithms.cola import COLA
from algorithms.fixed import GTFT, TFT, WSLS, AllC, AllD, BestResponse, Grim, Random, ZDExtort
from algorithms.good_shepherd import GoodShepherd
from algorithms.lola import HOLA, LOLA, LOLAExact, LOLAFull, LookAhead
from algorithms.lola_dice import LOLADiCE, LOLADiCEOM
from algorithms.lola_pg import LOLAOM, LOLAPG
from algorithms.loqa import LOQA, PairedLOQA
from algorithms.m_maml import MMAML
from algorithms.meva import MeVa
from algorithms.mfos import MFOS
from algorithms.mfos_recurrent import MFOSRecurrent
from algorithms.naive import Naive
from algorithms.pola import POLA, POLAOM
from algorithms.policy_gradient import NaivePG
from algorithms.ppo import PPO
from algorithms.q_learning import PHC, JointActionQ, NaiveQ, WoLFPHC
from algorithms.sos import SOS

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
    "naive-pg": NaivePG,
    "lola-pg": LOLAPG,
    "lola-om": LOLAOM,
    "lola-dice": LOLADiCE,
    "lola-dice-om": LOLADiCEOM,
    "pola": POLA,
    "pola-om": POLAOM,
    "naive-q": NaiveQ,
    "jal-q": JointActionQ,
    "phc": PHC,
    "wolf-phc": WoLFPHC,
    "ppo": PPO,
    "loqa": LOQA,
    "loqa-paired": PairedLOQA,
    "mfos": MFOS,
    "m-maml": MMAML,
    "good-shepherd": GoodShepherd,
    "mfos-recurrent": MFOSRecurrent,
    "meva": MeVa,
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
