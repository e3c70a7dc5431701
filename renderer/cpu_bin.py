"""Sort visible splats by depth and list them by tile: compiled counting sorts, stable throughout."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from renderer.cpu_records import (
    RADIUS_X,
    RADIUS_Y,
    RECORD,
    SHEAR,
    TILE_HEIGHT,
    TILE_WIDTH,
    X,
    Y,
    kernel,
    prefetch,
)

_AHEAD = 16  # splats that a record is asked for before its turn


@kernel()
def depth_order(bits: Any, bases: Any, counts: Any, keys: Any, order: Any) -> int:
    """Sort the survivors by depth, stably, by a radix sort of 11 bits; returns how many there are.

    The survivors of a chunk lie from bases[chunk] on. `bits` are the depths as unsigned integers (positive floats sort
    as such), `keys` and `order` are [2, N] scratch; the sorted positions end in order[1].
    """
    total = 0
    starts = np.zeros((3, 2048), np.int64)
    for chunk in range(counts.shape[0]):
        for at in range(bases[chunk], bases[chunk] + counts[chunk]):
            key = bits[at]
            keys[0, total] = key
            order[0, total] = at
            for digit in range(3):
                starts[digit, (key >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
            total += 1
    for digit in range(3):
        shift = np.uint32(11 * digit)
        source, target = digit % 2, 1 - digit % 2
        below = 0
        for value in range(2048):
            below, starts[digit, value] = below + starts[digit, value], below
        for i in range(total):
            key = keys[source, i]
            bucket = (key >> shift) & np.uint32(2047)
            at = starts[digit, bucket]
            starts[digit, bucket] = at + 1
            keys[target, at] = key
            order[target, at] = order[source, i]
    return total


@kernel()
def box_totals(order: Any, boxes: Any, limits: Any, totals: Any) -> None:
    """totals[c]: at most so many (tile, splat) pairs come of the sorted splats limits[c]..limits[c + 1]."""
    for part in range(totals.shape[0]):
        most = 0
        for i in range(limits[part], limits[part + 1]):
            most += boxes[order[i]]
        totals[part] = most


@kernel()
def emit(
    order: Any, records: Any, span: Any, size: Any, pair_tiles: Any, pair_splats: Any, at: int, counts: Any
) -> int:
    """Write the (tile, splat) pairs of the sorted splats `span`, nearest first, from `at`; returns the end.

    A row of tiles is crossed only where the ellipse itself lies, not its box. counts[tile] is how many each tile got.
    """
    width, height = size
    tiles_x = (width + TILE_WIDTH - 1) // TILE_WIDTH
    counts[:] = 0
    for i in range(span[0], span[1]):
        if i + _AHEAD < span[1]:
            prefetch(records, np.int64(order[i + _AHEAD]) * RECORD)
        splat = order[i]
        r = RECORD * np.int64(splat)
        x, y = records[r + X], records[r + Y]
        radius_x, radius_y = records[r + RADIUS_X], records[r + RADIUS_Y]
        left, right = int(max(x - radius_x, 0.5)), int(min(x + radius_x, width - 0.5))
        top, bottom = int(max(y - radius_y, 0.5)) // TILE_HEIGHT, int(min(y + radius_y, height - 0.5)) // TILE_HEIGHT
        first, last = left // TILE_WIDTH, right // TILE_WIDTH
        if first == last or top == bottom:
            for row in range(top, bottom + 1):
                for column in range(first, last + 1):
                    tile = row * tiles_x + column
                    pair_tiles[at] = tile
                    pair_splats[at] = splat
                    counts[tile] += 1
                    at += 1
            continue
        shear = records[r + SHEAR]
        # In the row dy the ellipse spans shear dy +- sqrt(across^2 (1 - dy^2 / radius_y^2)).
        across = max(radius_x * radius_x - shear * shear * radius_y * radius_y, np.float32(0))
        widest = shear * radius_y * radius_y / radius_x  # dy of the rightmost point; the leftmost is opposite
        for row in range(top, bottom + 1):
            low = max(row * TILE_HEIGHT + np.float32(0.5) - y, -radius_y)
            high = min((row + 1) * TILE_HEIGHT - np.float32(0.5) - y, radius_y)
            dy = min(max(widest, low), high)
            end = x + shear * dy + math.sqrt(across * max(1 - dy * dy / (radius_y * radius_y), 0.0)) + 2e-3
            dy = min(max(-widest, low), high)
            start = x + shear * dy - math.sqrt(across * max(1 - dy * dy / (radius_y * radius_y), 0.0)) - 2e-3
            start, end = max(start, left + 0.0), min(end, right + 1.0)
            if not start <= end:
                continue
            # A tile's pixel centres lie half a pixel inside its edges.
            first = int(max(start - 0.5, 0.0)) // TILE_WIDTH
            if start - 0.5 > first * TILE_WIDTH + TILE_WIDTH - 1:
                first += 1
            for column in range(first, int(max(end - 0.5, 0.0)) // TILE_WIDTH + 1):
                if column >= tiles_x:
                    break
                tile = row * tiles_x + column
                pair_tiles[at] = tile
                pair_splats[at] = splat
                counts[tile] += 1
                at += 1
    return at


@kernel()
def tile_starts(counts: Any, starts: Any) -> int:
    """Turn counts[part, tile] into where each part writes inside each tile's list; returns the number of pairs."""
    total = 0
    for tile in range(counts.shape[1]):
        starts[tile] = total
        for part in range(counts.shape[0]):
            count = counts[part, tile]
            counts[part, tile] = total
            total += count
    starts[counts.shape[1]] = total
    return total


@kernel()
def scatter(pair_tiles: Any, pair_splats: Any, span: Any, cursors: Any, lists: Any) -> None:
    """Put the pairs `span` into their tiles' lists, keeping their order."""
    for i in range(span[0], span[1]):
        tile = pair_tiles[i]
        at = cursors[tile]
        cursors[tile] = at + 1
        lists[at] = pair_splats[i]
