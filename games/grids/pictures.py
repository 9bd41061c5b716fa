"""Boards as pictures, for people who look: frames, PNG files and animated GIFs of any game that shows one."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from shaping_bench.games.base import Game
from shaping_bench.games.grids.board import NOTHING, SHAPES, Board, Glyph

BACKGROUND = (250, 250, 248)
LINE = (208, 208, 204)
COLOURS = ((204, 51, 51), (40, 92, 196), (0, 122, 89), (163, 70, 127), (122, 126, 134))
"""By number: of the first four seats, and of what is nobody's."""

PLAYER_SIZE, THING_SIZE, RIM = 1.0, 0.55, 0.1
"""Of pieces, as shares of a cell; a thing shows inside the player on it, with a rim."""

_POINTS = {
    "": None,
    "N": (0.0, -1.0),
    "E": (1.0, 0.0),
    "S": (0.0, 1.0),
    "W": (-1.0, 0.0),
}


def frame(game: Game, state: Any, cell_pixels: int = 48) -> np.ndarray:
    """The board of a state as an image, ``(rows * cell_pixels, columns * cell_pixels, 3)`` uint8.

    Pieces of one kind that share a cell, players or things, each show a sector of their shape.

    Raises:
      ValueError: the game shows no board.
    """
    board = game.board(state)
    if board is None:
        raise ValueError(f"{type(game).__name__} shows no board")
    return drawn(board, game.legend, cell_pixels)


def drawn(board: Board, legend: Any, cell_pixels: int = 48) -> np.ndarray:
    """A board as an image; see :func:`frame`."""
    p = cell_pixels
    image = np.full((board.rows * p, board.columns * p, 3), BACKGROUND, np.uint8)
    y, x = (np.indices((p, p)) + 0.5) / p * 2.0 - 1.0

    def paint(row: int, column: int, mask: np.ndarray, colour: tuple[int, int, int], share: float = 1.0) -> None:
        cell = image[row * p : (row + 1) * p, column * p : (column + 1) * p]
        cell[mask] = np.round(share * np.array(colour) + (1.0 - share) * cell[mask]).astype(np.uint8)

    def glyph(row: int, column: int, which: Glyph, mask: Any = True, grow: float = 0.0) -> None:
        size = (THING_SIZE if which.player is None else PLAYER_SIZE) + grow
        colour = BACKGROUND if grow else COLOURS[which.colour % len(COLOURS)]
        inside = _covered(which.shape, x / size, y / size) & mask
        paint(row, column, inside, colour, 0.4 if which.shape == "beam" else 1.0)

    for row, line in enumerate(board.cells):
        for column, name in enumerate(line):
            if name != NOTHING:
                glyph(row, column, legend[name])
    for are_players in (True, False):
        here: dict[tuple[int, int], list[Any]] = {}
        for piece in board.pieces:
            if (legend[piece.glyph].player is not None) == are_players:
                here.setdefault((piece.row, piece.column), []).append(piece)
        for (row, column), pieces in here.items():
            if not are_players:
                for piece in pieces:
                    if legend[piece.glyph].shape not in ("block", "beam"):
                        glyph(row, column, legend[piece.glyph], grow=RIM)
            turn = (np.arctan2(y, x) / (2.0 * np.pi) + 0.125) % 1.0
            for k, piece in enumerate(pieces):
                glyph(row, column, legend[piece.glyph], np.floor(turn * len(pieces)) == k)
                ahead = _POINTS[piece.facing]
                if ahead is not None:
                    paint(row, column, np.hypot(x - 0.5 * ahead[0], y - 0.5 * ahead[1]) < 0.16, BACKGROUND)
    image[::p] = LINE
    image[:, ::p] = LINE
    image[-1] = LINE
    image[:, -1] = LINE
    return image


def _covered(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Where a shape is, in a cell of -1 to 1."""
    far = np.hypot(x, y)
    covered = {
        "disc": far < 0.8,
        "square": np.maximum(abs(x), abs(y)) < 0.75,
        "ring": (far < 0.8) & (far > 0.4),
        "diamond": abs(x) + abs(y) < 0.9,
        "triangle": (abs(x) < 0.45 * (y + 0.8)) & (y < 0.75),
        "cross": (np.maximum(abs(x), abs(y)) < 0.8) & (np.minimum(abs(x), abs(y)) < 0.28),
        "block": np.ones_like(x, bool),
        "beam": np.ones_like(x, bool),
    }
    assert set(covered) == set(SHAPES)
    return covered[shape]


def frames(game: Game, states: Any, cell_pixels: int = 48) -> np.ndarray:
    """An episode as images, ``(T, height, width, 3)`` uint8, from states stacked over time."""
    host: Any = jax.device_get(states)
    times = range(len(jax.tree.leaves(host)[0]))
    return np.stack([frame(game, jax.tree.map(lambda x, t=t: x[t], host), cell_pixels) for t in times])


def save_png(path: str | pathlib.Path, images: np.ndarray | Sequence[np.ndarray], columns: int = 10) -> None:
    """Writes one frame, or several as a sheet read like text with ``columns`` frames per line."""
    from PIL import Image  # only for those who render

    array = np.asarray(images, np.uint8)
    if array.ndim == 4:
        count, height, width, _ = array.shape
        columns = min(columns, count)
        lines = -(-count // columns)
        gap = max(2, width // 12)
        sheet = np.full((lines * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
        for k, image in enumerate(array):
            top, left = (k // columns) * (height + gap), (k % columns) * (width + gap)
            sheet[top : top + height, left : left + width] = image
        array = sheet
    Image.fromarray(array).save(path, format="PNG")


def save_gif(path: str | pathlib.Path, images: np.ndarray | Sequence[np.ndarray], milliseconds: int = 250) -> None:
    """Writes frames as an animation that repeats, each shown for ``milliseconds``."""
    from PIL import Image

    # One palette for all frames, or the colours would flicker.
    first, *rest = (Image.fromarray(np.asarray(x, np.uint8)).quantize(16) for x in images)
    first.save(path, format="GIF", save_all=True, append_images=rest, duration=milliseconds, loop=0)
