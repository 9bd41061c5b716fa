"""Episodes of games on a grid, as stored with the cells, in a player.

The first board is in the page; the script moves its pieces. Agents and coins differ by shape
and letter as well as by colour.
"""

import json
from collections.abc import Mapping
from typing import Any

from shaping_bench.errors import BadInput
from shaping_bench.publish.report.markup import Addresses, escape, meeting
from shaping_bench.store.results import Results

SQUARE = 40
"""Side of a square of the board, in the drawing's units."""


def player(results: Results, game: str) -> str:
    """The player of a game's episodes; empty where none is stored."""
    addresses = Addresses(results)
    stored = [
        (record, episode)
        for record in results.records
        if record["kind"] == "encounter" and record["game"]["label"] == game and (episode := _episode(results, record))
    ]
    if not stored:
        return ""
    episodes = [
        {
            "title": meeting([x["label"] for x in record["learners"]]),
            "learners": [x["label"] for x in record["learners"]],
            "cell": f"#{addresses.identity(record['hash'])}",
            **{key: episode[key] for key in ("grid", "frames")},
        }
        for record, episode in stored
    ]
    options = "".join(f'<option value="{k}">{escape(x["title"])}</option>' for k, x in enumerate(episodes))
    # "</" would end the element that holds the data.
    data = json.dumps(episodes, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return (
        "<h3>Watch them play</h3>\n"
        "<p>One episode of the final policies of a seed. Each player is paid for any coin that it picks up; whoever "
        "picks up the other's coin takes more from the other than it gains.</p>\n"
        f'<div class="episode" role="group" aria-label="{escape(game)}: episodes">\n'
        f"{_board(episodes[0])}\n"
        f'<label class="which" hidden>Encounter <select autocomplete="off">{options}</select></label>\n'
        f"{_key(episodes[0])}\n"
        '<div class="controls" hidden>'
        '<button type="button" data-do="back" aria-label="Step back">◀</button>'
        '<button type="button" data-do="play" aria-label="Play">Play</button>'
        '<button type="button" data-do="forward" aria-label="Step forward">▶</button>'
        '<input type="range" min="0" step="1" value="0" aria-label="Step" autocomplete="off">'
        "</div>\n"
        '<p class="status"><output></output> <a class="of" hidden>Its cell</a></p>\n'
        '<p class="soft">Keys: space plays and pauses, arrows step, Home and End jump.</p>\n'
        f'<noscript><p class="soft">This is the first board; the episode plays where scripts run.</p></noscript>\n'
        f'<script type="application/json">{data}</script>\n</div>'
    )


def _episode(results: Results, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """A cell's stored episode, if it has one.

    Raises:
      BadInput: a file that is none.
    """
    path = results.directory / "cells" / record["hash"] / "episode.json"
    try:
        episode = json.loads(path.read_text())
        for frame in episode["frames"]:
            [(row, column) for row, column in frame["agents"]]
            [(coin["at"][1], coin["owner"]) for coin in frame["coins"]]
            [float(x) for x in frame["rewards"]]
        return episode if episode["frames"] and int(episode["grid"]) > 0 else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise BadInput(
            f"episode {str(path)!r} cannot be read ({type(error).__name__}: {error}); "
            "allowed: one of shaping-bench run, or none"
        ) from None


def _board(episode: Mapping[str, Any]) -> str:
    """The first board: circle 1 and square 2 are the agents, a ring and a diamond their coins."""
    side = int(episode["grid"]) * SQUARE
    lines = "".join(f"M{k * SQUARE} 0V{side}M0 {k * SQUARE}H{side}" for k in range(int(episode["grid"]) + 1))
    first = episode["frames"][0]
    coins = "".join(_piece(f"coin c{x['owner']}", x["at"]) + "</g>" for x in first["coins"])
    agents = "".join(
        f'{_piece(f"agent a{k}", at)}<text text-anchor="middle" y="4">{k + 1}</text></g>'
        for k, at in enumerate(first["agents"])
    )
    title = f"Board of the episode, {episode['title']}"
    return (
        f'<svg class="board" role="img" aria-label="{escape(title)}" viewBox="-2 -2 {side + 4} {side + 4}" '
        f'data-square="{SQUARE}"><path class="grid" d="{lines}"/><g class="coins">{coins}</g>'
        f'<g class="agents">{agents}</g></svg>'
    )


def _key(episode: Mapping[str, Any]) -> str:
    """Whose the pieces are, and what each has been paid so far."""
    names = "".join(
        f'<span><svg class="sample piece" aria-hidden="true" viewBox="-20 -20 40 40">{_piece(f"agent a{k}")}'
        f'<text text-anchor="middle" y="4">{k + 1}</text></g></svg>'
        f'<svg class="sample piece" aria-hidden="true" viewBox="-20 -20 40 40">{_piece(f"coin c{k}")}</g></svg>'
        f'<span><span class="who">{escape(label)}</span> and its coins<span class="paid"></span></span></span>'
        for k, label in enumerate(episode["learners"])
    )
    return f'<p class="key">{names}</p>'


_SHAPES = {
    "agent a0": "M-11 0a11 11 0 1 0 22 0a11 11 0 1 0-22 0z",
    "agent a1": "M-10-10h20v20h-20z",
    "coin c0": "M-13 0a13 13 0 1 0 26 0a13 13 0 1 0-26 0z",
    "coin c1": "M0-15l15 15l-15 15l-15-15z",
}


def _piece(kind: str, at: tuple[int, int] | None = None) -> str:
    """A piece's opening group and its shape, in the middle of its square."""
    place = ""
    if at is not None:
        place = f' transform="translate({(at[1] + 0.5) * SQUARE:g} {(at[0] + 0.5) * SQUARE:g})"'
    return f'<g class="{kind}"{place}><path d="{_SHAPES[kind]}"/>'
