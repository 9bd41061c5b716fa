"""Episodes of games on a grid, as stored with the cells, in a player.

What is drawn is what the file says: the size of the board, a legend, and per time what lies where (the
contract is ``games/grids/board.py``'s). The first board is in the page; the script plays the rest. Things
differ by shape and players by their number as well as by colour.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from shaping_bench.errors import BadInput
from shaping_bench.publish.report.markup import Addresses, escape, meeting
from shaping_bench.store.results import Results

SQUARE = 40
"""Side of a square of the board, in the drawing's units."""

NUM_COLOURS = 5
"""Of the style sheet."""

PATHS = {
    "disc": "M-13 0a13 13 0 1 0 26 0a13 13 0 1 0-26 0z",
    "square": "M-12-12h24v24h-24z",
    "ring": "M-13 0a13 13 0 1 0 26 0a13 13 0 1 0-26 0zM-8 0a8 8 0 1 0 16 0a8 8 0 1 0-16 0z",
    "diamond": "M0-15l15 15l-15 15l-15-15z",
    "triangle": "M0-14l14 25h-28z",
    "cross": "M-13-4h9v-9h8v9h9v8h-9v9h-8v-9h-9z",
    "block": "M-20-20h40v40h-40z",
    "beam": "M-20-20h40v40h-40z",
}
"""Of each shape, in the middle of its square."""

FACING = "M0-19l5 6h-10z"
"""Beside a piece that looks up."""

TURNS = {"N": 0, "E": 90, "S": 180, "W": 270}

COINS = {
    "note": "Each player is paid for any coin that it picks up; whoever picks up the other's coin takes more from the "
    "other than it gains.",
    "legend": {
        "red": {"shape": "disc", "label": "red", "colour": 0, "player": 0},
        "blue": {"shape": "square", "label": "blue", "colour": 1, "player": 1},
        "red coin": {"shape": "ring", "label": "coins", "colour": 0, "owner": 0},
        "blue coin": {"shape": "diamond", "label": "coins", "colour": 1, "owner": 1},
    },
}
"""What files of the first version do not say, which showed players and coins only."""


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
            **{key: episode[key] for key in ("rows", "columns", "legend", "frames")},
        }
        for record, episode in stored
    ]
    options = "".join(f'<option value="{k}">{escape(x["title"])}</option>' for k, x in enumerate(episodes))
    # "</" would end the element that holds the data.
    data = json.dumps(episodes, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    note = str(stored[0][1].get("note") or "")
    return (
        "<h3>Watch them play</h3>\n"
        f"<p>{escape(f'One episode of the final policies of a seed. {note}'.strip())}</p>\n"
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
    """A cell's stored episode as a file of today has it, with the path of each glyph; None if the cell
    has none, or one of a version that showed other boards.

    Raises:
      BadInput: a file that is none.
    """
    path = results.directory / "cells" / record["hash"] / "episode.json"
    try:
        stored = json.loads(path.read_text())
        episode = stored if "version" in stored else _of_first_version(stored)
        if not (episode and episode["frames"]):
            return None
        _checked(episode, len(record["learners"]))
        legend = {
            name: {**glyph, "path": PATHS.get(glyph["shape"], PATHS["square"]), "colour": _colour(glyph)}
            for name, glyph in episode["legend"].items()
        }
        return {**episode, "legend": legend}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise BadInput(
            f"episode {str(path)!r} cannot be read ({type(error).__name__}: {error}); "
            "allowed: one of shaping-bench run, or none"
        ) from None


def _colour(glyph: Mapping[str, Any]) -> int:
    return int(glyph["colour"]) % NUM_COLOURS


def _of_first_version(stored: Mapping[str, Any]) -> dict[str, Any] | None:
    if not all({"agents", "coins"} <= set(frame) for frame in stored["frames"]):
        return None
    names = ("red", "blue")

    def frame(old: Mapping[str, Any]) -> dict[str, Any]:
        coins = [[f"{names[coin['owner']]} coin", *coin["at"]] for coin in old["coins"]]
        players = [[name, *at] for name, at in zip(names, old["agents"], strict=True)]
        return {"pieces": [*coins, *players], "rewards": old["rewards"]}

    return {**COINS, "rows": stored["grid"], "columns": stored["grid"], "frames": [frame(x) for x in stored["frames"]]}


def _checked(episode: Mapping[str, Any], n_players: int) -> None:
    """Raises one of the errors of wrong data where the script or the page would stumble."""
    legend, rows, columns = episode["legend"], int(episode["rows"]), int(episode["columns"])
    if rows < 1 or columns < 1:
        raise ValueError(f"a board of {rows} x {columns}")
    for glyph in legend.values():
        str(glyph["shape"]), str(glyph["label"]), _colour(glyph)
        if not 0 <= int(glyph.get("player", 0)) < n_players:
            raise ValueError(f"a glyph of player {glyph['player']}")
    for frame in episode["frames"]:
        if not all(math.isfinite(x) for x in frame["rewards"]) or len(frame["rewards"]) != n_players:
            raise ValueError("rewards that are not one number per player")
        for name, row, column, *_ in frame["pieces"]:
            if name not in legend or not (0 <= row < rows and 0 <= column < columns):
                raise ValueError(f"a piece {name!r} at {row}, {column}")
        for line in frame.get("cells", ()):
            if len(line) != columns or set(line) - {"."} - set(legend):
                raise ValueError(f"cells {line!r}")
        if any(len([int(x) for x in window]) != 5 for window in frame.get("windows", ())):
            raise ValueError("windows that are not five whole numbers each")
        for held in frame.get("inventories", ()):
            [(str(name), float(amount)) for name, amount in held.items()]


def _board(episode: Mapping[str, Any]) -> str:
    """The first board."""
    rows, columns = int(episode["rows"]), int(episode["columns"])
    width, height = columns * SQUARE, rows * SQUARE
    lines = "".join(f"M{k * SQUARE} 0V{height}" for k in range(columns + 1))
    lines += "".join(f"M0 {k * SQUARE}H{width}" for k in range(rows + 1))
    first, legend = episode["frames"][0], episode["legend"]
    cells = [
        _piece(legend[name], (row, column))
        for row, line in enumerate(first.get("cells", ()))
        for column, name in enumerate(line)
        if name != "."
    ]
    is_player = [("player" in legend[name]) for name, *_ in first["pieces"]]
    things, players = (
        [
            _piece(legend[name], (row, column), *facing)
            for (name, row, column, *facing), which in zip(first["pieces"], is_player, strict=True)
            if which == wanted
        ]
        for wanted in (False, True)
    )
    windows = "".join(_window(x) for x in first.get("windows", ()))
    title = f"Board of the episode, {episode['title']}"
    return (
        f'<svg class="board" role="img" aria-label="{escape(title)}" viewBox="-2 -2 {width + 4} {height + 4}" '
        f'data-square="{SQUARE}" data-facing="{FACING}"><g class="cells">{"".join(cells)}</g>'
        f'<path class="grid" d="{lines}"/><g class="things">{"".join(things)}</g>'
        f'<g class="players">{"".join(players)}</g><g class="windows">{windows}</g></svg>'
    )


def _key(episode: Mapping[str, Any]) -> str:
    """Whose the pieces are, what each has been paid so far and what it holds, and what else there is."""
    legend = list(episode["legend"].values())
    entries = []
    for k, label in enumerate(episode["learners"]):
        own = [x for x in legend if k in (x.get("player"), x.get("owner"))]
        things = dict.fromkeys(x["label"] for x in own if "owner" in x)
        also = f" and its {escape(', '.join(things))}" if things else ""
        who = f'<span class="who">{escape(label)}</span>{also}<span class="paid"></span><span class="holds"></span>'
        entries.append(f"{''.join(map(_sample, own))}<span>{who}</span>")
    nobodys = [x for x in legend if "player" not in x and "owner" not in x]
    entries += [f"{_sample(x)}<span>{escape(x['label'])}</span>" for x in nobodys]
    return f'<p class="key">{"".join(f"<span>{x}</span>" for x in entries)}</p>'


def _sample(glyph: Mapping[str, Any]) -> str:
    return f'<svg class="sample piece" aria-hidden="true" viewBox="-20 -20 40 40">{_piece(glyph)}</svg>'


def _piece(glyph: Mapping[str, Any], at: Sequence[int] | None = None, facing: str = "") -> str:
    """A piece: its shape in the middle of its square, a player's number, and where it looks."""
    kind = "player" if "player" in glyph else "thing"
    place = ""
    if at is not None:
        place = f' transform="translate({(at[1] + 0.5) * SQUARE:g} {(at[0] + 0.5) * SQUARE:g})"'
    number = f'<text text-anchor="middle" y="4">{int(glyph["player"]) + 1}</text>' if kind == "player" else ""
    looks = f'<path class="facing" d="{FACING}" transform="rotate({TURNS[facing]})"/>' if facing else ""
    shape = f'<path d="{glyph["path"]}"/>'
    return f'<g class="{kind} {escape(str(glyph["shape"]))} t{glyph["colour"]}"{place}>{shape}{number}{looks}</g>'


def _window(window: Sequence[int]) -> str:
    """The outline of what a player sees."""
    player, top, left, rows, columns = (int(x) for x in window)
    outline = f"M{left * SQUARE} {top * SQUARE}h{columns * SQUARE}v{rows * SQUARE}h-{columns * SQUARE}z"
    return f'<path class="window t{player % NUM_COLOURS}" d="{outline}"/>'
