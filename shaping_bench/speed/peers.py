"""Other people's code on the units of work that we time.

All figures were taken on one machine, like ours: each code pinned to one idle core, one thread,
process time around work that was warmed up, medians of several runs. Ours are taken on a machine of
the same kind, which :func:`like_terms` asks by a matrix product. A ratio is given where both sides did
the same work; where they did not, :attr:`Peer.differs` says in what, and there is none.
"""

import dataclasses
import time
from typing import Any

PEAK = 126e9
"""Of the peers' machine: operations per CPU-second in a product of two matrices of 2048 rows, float32."""

MACHINE = "one idle core of a 2-core machine, one thread, 126 GFLOP per CPU-second in a 2048 float32 matrix product"
TAKEN = "November 2026"

TOLERANCE = 0.15
"""By how much a machine's rate may differ from :data:`PEAK` for it to be of the same kind."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peer:
    """Somebody else's code and how fast it does a unit of work.

    Attributes:
      name, version: of the code, and of what it runs on.
      work: what was timed.
      unit: what is counted.
      per_cpu_second: how many of it.
      differs: what of the work is not as ours; empty: the same work.
      machine, taken: on what and when it was timed.
    """

    name: str
    version: str
    work: str
    unit: str
    per_cpu_second: float
    differs: str = ""
    machine: str = MACHINE
    taken: str = TAKEN


def _sos(work: str, rate: float) -> Peer:
    return Peer(
        name="official SOS notebook",
        version="PyTorch 2.15",
        work=f"exact IPD, one update of both, {work}",
        unit="updates",
        per_cpu_second=rate,
    )


def _mfos(work: str, rate: float) -> Peer:
    return Peer(
        name="official M-FOS environment",
        version="PyTorch 2.15",
        work=f"exact IPD, batch 4096, {work}",
        unit="updates",
        per_cpu_second=rate,
    )


SOS_NAIVE, SOS_LOLA, SOS, SOS_CGD = (
    _sos(work, rate)
    for work, rate in (
        ("naive", 1696),
        ("LOLA with both second-order terms", 677),
        ("SOS", 555),
        ("competitive gradient descent", 295),
    )
)
MFOS_NAIVE, MFOS_LOLA = _mfos("naive", 1.56e6), _mfos("one seat LOLA, one naive", 0.25e6)

_EVALUATION = 0.02
"""Seconds of the rollout by which the official LOLA-DiCE evaluates after each update, which is taken off."""

DICE = {
    steps: Peer(
        name="official LOLA_DiCE",
        version="PyTorch",
        work=f"IPD, batch 128 x 150, look-ahead {steps}, updates of both, its evaluation taken off",
        unit="updates",
        per_cpu_second=1 / (1 / rate - _EVALUATION),
    )
    for steps, rate in ((1, 4.3), (2, 2.7), (3, 1.8))
}
OPEN_SPIEL = Peer(
    name="OpenSpiel LOLA, jitted",
    version="JAX",
    work="LOLA-PG, IPD, batch 128 x 150",
    unit="updates",
    per_cpu_second=0.70,
)
JAXMARL = Peer(
    name="JaxMARL",
    version="JAX",
    work="Coin Game, random actions, 8192 environments",
    unit="env steps",
    per_cpu_second=3.0e6,
)
PAX, PAX_WITHOUT_MEMORY = (
    Peer(
        name="pax",
        version="JAX",
        work=f"PPO {work} against the same, Coin Game, 1000 x 16",
        unit="env steps",
        per_cpu_second=rate,
        differs=differs,
    )
    for work, rate, differs in (
        ("with a GRU of 16 units", 0.33e6, ""),
        ("without memory", 0.42e6, "its network is not matched with ours"),
    )
)
LOQA_COIN, LOQA_COIN_FEWER, LOQA_COIN_PRESENT, LOQA_IPD = (
    Peer(
        name="official LOQA",
        version="JAX",
        work=work,
        unit="iterations",
        per_cpu_second=1 / seconds,
        differs=differs,
    )
    for work, seconds, differs in (
        ("Coin Game, batch 512 x 50, buffer, 512 past opponents per batch", 1.64, ""),
        ("Coin Game, batch 512 x 50, buffer", 1.64, "it plays 512 past opponents per batch, ours 16"),
        ("Coin Game, batch 512 x 50, no buffer", 0.65, ""),
        ("IPD, batch 2048 x 50", 0.133, ""),
    )
)
MFOS_PPO = Peer(
    name="official M-FOS",
    version="PyTorch 2.15",
    work="IPD against naive, batch 4096 x 100",
    unit="meta-episodes",
    per_cpu_second=1 / 10,
    differs="measured on a busy machine at 30 s, of which about 10 are its own",
)

STORM = Peer(
    name="JaxMARL",
    version="JAX",
    work="in the matrix (storm_2p), random actions, 512 environments",
    unit="env steps",
    per_cpu_second=0.40e6,
    differs="it resets boards at the end of an episode",
)

PD_ARENA = Peer(
    name="SocialJax",
    version="JAX",
    work="prisoner's dilemma arena, random actions, 512 environments",
    unit="env steps",
    per_cpu_second=0.045e6,
    differs="its arena holds several players, ours is Melting Pot's, of two",
)

HARVEST = Peer(
    name="SocialJax",
    version="JAX",
    work="harvest, open, 7 players, random actions, 512 environments",
    unit="env steps",
    per_cpu_second=0.056e6,
    differs="its rules and what it shows are others",
)

CLEANUP = Peer(
    name="SocialJax",
    version="JAX",
    work="clean-up, 7 players, random actions, 512 environments",
    unit="env steps",
    per_cpu_second=0.032e6,
    differs="its rules and what it shows are others",
)

ELSEWHERE = tuple(
    Peer(name=name, version="JAX", work=work, unit="env steps", per_cpu_second=rate)
    for name, work, rate in (
        ("JaxMARL", "independent PPO, Coin Game", 0.10e6),
        ("SocialJax", "coins, 512 environments", 0.51e6),
    )
)
"""Figures that nothing of ours stands beside yet."""

PEERS = (
    *(SOS_NAIVE, SOS_LOLA, SOS, SOS_CGD, MFOS_NAIVE, MFOS_LOLA),
    *DICE.values(),
    *(OPEN_SPIEL, JAXMARL, PAX, PAX_WITHOUT_MEMORY),
    *(LOQA_COIN, LOQA_COIN_PRESENT, LOQA_IPD, MFOS_PPO, STORM, PD_ARENA, HARVEST, CLEANUP),
    *ELSEWHERE,
)


def matrix_rate(runs: int = 5) -> float:
    """Floating-point operations per CPU-second of this machine in the product that :data:`PEAK` is of."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones((2048, 2048), jnp.float32)
    product = jax.jit(lambda a: a @ a)
    rates = []
    for _ in range(runs + 1):
        start = time.process_time()
        jax.block_until_ready(product(x))
        rates.append(2 * 2048**3 / (time.process_time() - start))
    return max(rates[1:])


def like_terms(rate: float, platform: str) -> bool:
    """Whether a machine with this matrix rate is one on which our figures can be held against the peers'."""
    return platform == "cpu" and abs(rate / PEAK - 1) <= TOLERANCE


LIKE = "like"
"""Says that both sides did the same work on machines of the same kind."""


def beside(peer: Peer | None, per_cpu_second: float, alike: bool) -> dict[str, Any]:
    """What a row says of the peer: who it is, the terms (:data:`LIKE`, or what differs), and if they are
    like the ratio.

    Args:
      peer: whose figure stands beside ours, if anybody's.
      per_cpu_second: ours.
      alike: whether this machine is of the peers' kind, by :func:`like_terms`.
    """
    if peer is None:
        return {"peer": None, "terms": None, "times_peer": None}
    terms = "; ".join(x for x in (peer.differs, "" if alike else "another machine") if x) or LIKE
    return {
        "peer": dataclasses.asdict(peer),
        "terms": terms,
        "times_peer": per_cpu_second / peer.per_cpu_second if terms == LIKE else None,
    }
