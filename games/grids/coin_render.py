"""Coin Game boards as pictures, for people who look: frames, PNG files and animated GIFs."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from shaping_bench.games.grids.coin import CoinGame, State

BACKGROUND = (250, 250, 248)
LINE = (208, 208, 204)
COLOURS = ((204, 51, 51), (40, 92, 196))
"""Red and blue. Players are squares, coins are discs."""


def frame(game: CoinGame, state: State, cell_pixels: int = 48) -> np.ndarray:
    """The board as an image, ``(size * cell_pixels, size * cell_pixels, 3)`` uint8.

    Players sharing a cell each show half of their square, two coins sharing a cell each half
    of their disc. A coin under a player shows inside the square, with a rim.
    """
    n, p = game.size, cell_pixels
    image = np.full((n * p, n * p, 3), BACKGROUND, np.uint8)
    players = [int(x) for x in state.players]
    coins = [(int(cell), int(owner)) for cell, owner in zip(state.coins, state.owners, strict=True)]
    y, x = (np.indices((p, p)) + 0.5) / p - 0.5
    square = np.maximum(abs(x), abs(y)) < 0.38
    rim, disc = np.hypot(x, y) < 0.24, np.hypot(x, y) < 0.20
    halves = (x < y, x >= y)
    shared_coin = len(coins) == 2 and coins[0][0] == coins[1][0]

    def paint(cell: int, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
        row, column = divmod(cell, n)
        image[row * p : (row + 1) * p, column * p : (column + 1) * p][mask] = colour

    for i, cell in enumerate(players):
        paint(cell, square & halves[i] if players[0] == players[1] else square, COLOURS[i])
    for cell, _ in coins:
        paint(cell, rim, BACKGROUND)
    for cell, owner in coins:
        paint(cell, disc & halves[owner] if shared_coin else disc, COLOURS[owner])
    image[::p] = LINE
    image[:, ::p] = LINE
    image[-1] = LINE
    image[:, -1] = LINE
    return image


def frames(game: CoinGame, states: State, cell_pixels: int = 48) -> np.ndarray:
    """An episode as images, ``(T, height, width, 3)`` uint8, from states stacked over time."""
    host: Any = jax.device_get(states)
    times = range(np.shape(host.time)[0])
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
