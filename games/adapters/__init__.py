"""Games to and from JaxMARL, SocialJax and gymnax, whose packages need be there only where they are used.

Theirs as ours: :class:`JaxMARLGame`, :class:`SocialJaxGame` and :class:`GymnaxGame` are games of the sampled view, met
by every learner that plays. Ours as theirs: :func:`to_jaxmarl` and :func:`to_socialjax` are a ``MultiAgentEnv`` of
either, and :func:`to_gymnax` an ``Environment`` for one seat, the others being played by given functions.

What differs, and how it is translated:

* *The end of an episode.* Theirs reset by themselves in the very step that ends an episode.
  Ours never do: an episode has a fixed number of steps. An environment of theirs that ends
  before its ``horizon`` stays where it is, pays nothing more, keeps showing its last observation
  and says ``done``, so that nobody learns from what is no longer played; one that would go on is
  cut at the horizon. Ours as theirs reset by themselves.
* *Observations.* Planes are ``(channels, rows, columns)`` here, ``(rows, columns, channels)``
  there. Vectors of theirs are planes of a single cell, ``(length, 1, 1)``; indices are one-hot,
  in either direction.
* *Agents.* Arrays over seats here and in SocialJax, dictionaries by name in JaxMARL; seats are in the order of
  its ``agents``. In SocialJax all agents have one space, which comes with its shape.
* *Values by step.* gymnax's ``step`` returns five values before its version 1.0 and six since,
  ``done`` having become ``terminated`` and ``truncated``. Both are understood.
"""

from shaping_bench.games import Entry
from shaping_bench.games.adapters.gymnax import GymnaxGame, to_gymnax
from shaping_bench.games.adapters.jaxmarl import JaxMARLGame, to_jaxmarl
from shaping_bench.games.adapters.socialjax import SocialJaxGame, to_socialjax

__all__ = ["ADAPTERS", "GymnaxGame", "JaxMARLGame", "SocialJaxGame", "to_gymnax", "to_jaxmarl", "to_socialjax"]

ADAPTERS: dict[str, Entry] = {
    "jaxmarl": Entry(
        JaxMARLGame, "JaxMARL (Rutherford et al., NeurIPS 2024)", "any environment of JaxMARL: environment=coin_game"
    ),
    "socialjax": Entry(
        SocialJaxGame, "SocialJax (Guo et al., ICLR 2026)", "any environment of SocialJax: environment=clean_up"
    ),
    "gymnax": Entry(GymnaxGame, "gymnax (Lange 2022)", "any environment of gymnax, alone: environment='CartPole-v1'"),
}
"""Games by name that need another package; beside ``games.GAMES``, which need none."""
