"""Blend the splats of a tile front to back, compiled to SIMD: 16 pixels at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from renderer.cpu_records import (
    ACROSS,
    BLUE,
    DEPTH,
    DOWN,
    GREEN,
    OFFSET,
    RADIUS_Y,
    RECORD,
    RED,
    SHEAR,
    TILE_HEIGHT,
    TILE_WIDTH,
    Y,
    kernel,
    prefetch,
)

_LOWEST = np.float32(-1.125)  # log2(alpha) / 8 below which every alpha is under the threshold of 1/255
_RECHECK = 16  # splats between two looks for a pixel that still lets light through
_AHEAD = 8  # splats that a record is asked for before its turn
_CHANNELS = 6  # transmittance, r, g, b, alpha, depth: TILE_WIDTH of each make a row of the accumulator
_T, _AR, _AG, _AB, _AA, _AD = (np.uint64(TILE_WIDTH * i) for i in range(_CHANNELS))
ACCUMULATED = TILE_WIDTH * TILE_HEIGHT * _CHANNELS  # float32 values of a tile
_ROW = np.uint64(TILE_WIDTH * _CHANNELS)
_WIDE = np.uint64(TILE_WIDTH)

# 2^x on [-1.126, 0], minimax of the relative error (1.5e-7; 1.2e-6 after the eighth power).
E0, E1, E2, E3, E4, E5 = (
    np.float32(value) for value in (0.99999982, 0.69313836, 0.24014089, 0.055191189, 0.0090865018, 0.00089764269)
)


@kernel(fast=True)
def _blend_row(acc: Any, base: Any, offset: Any, across: Any, dx: Any, colour: Any, limits: Any) -> None:
    """Blend one splat into one row of a tile; `dx` is the distance of the first pixel centre from its middle."""
    red, green, blue, depth = colour
    cap, threshold, stop = limits
    for i in range(_WIDE):
        distance = dx + np.float32(i)
        e = max(offset + across * distance * distance, _LOWEST)
        alpha = E0 + e * (E1 + e * (E2 + e * (E3 + e * (E4 + e * E5))))
        alpha = alpha * alpha
        alpha = alpha * alpha
        alpha = min(alpha * alpha, cap)
        through = acc[base + i]
        weight = alpha * through
        after = through - weight
        lit = after if after > stop else np.float32(0)
        weight = weight if after > stop else np.float32(0)
        weight = weight if alpha >= threshold else np.float32(0)
        acc[base + i] = lit if alpha >= threshold else through
        acc[base + _AR + i] += weight * red
        acc[base + _AG + i] += weight * green
        acc[base + _AB + i] += weight * blue
        acc[base + _AA + i] += weight
        acc[base + _AD + i] += weight * depth


@kernel(fast=True)
def _blend_tile(acc: Any, x0: Any, y0: Any, rows: int, splats: Any, records: Any, limits: Any) -> None:
    """Blend a tile's splats, nearest first, until no pixel lets light through."""
    lowest = np.float32(math.log2(limits[1]) * 0.125)
    alive = np.ones(TILE_HEIGHT, np.uint8)
    for n in range(splats.shape[0]):
        if n % _RECHECK == _RECHECK - 1 and not _any_alive(acc, alive, rows):
            return
        if n + _AHEAD < splats.shape[0]:
            ahead = np.int64(splats[n + _AHEAD]) * RECORD
            prefetch(records, ahead)
            prefetch(records, ahead + RADIUS_Y)  # a record may lie in two lines
        r = np.uint64(splats[n]) * np.uint64(RECORD)
        x, y = records[r], records[r + np.uint64(Y)]
        shear, across = records[r + np.uint64(SHEAR)], records[r + np.uint64(ACROSS)]
        down, offset = records[r + np.uint64(DOWN)], records[r + np.uint64(OFFSET)]
        colour = (
            records[r + np.uint64(RED)],
            records[r + np.uint64(GREEN)],
            records[r + np.uint64(BLUE)],
            records[r + np.uint64(DEPTH)],
        )
        radius = records[r + np.uint64(RADIUS_Y)]
        first = max(int(max(y - radius - y0, np.float32(0))), 0)
        last = min(int(max(min(y + radius - y0, np.float32(TILE_HEIGHT)), np.float32(-1))), rows - 1)
        for row in range(first, last + 1):
            if alive[row] == 0:
                continue
            dy = y0 + np.float32(row) + np.float32(0.5) - y
            exponent = offset + down * dy * dy
            dx = x0 + np.float32(0.5) - (x + shear * dy)
            nearest = max(dx, np.float32(0)) + min(dx + np.float32(TILE_WIDTH - 1), np.float32(0))
            if exponent + across * nearest * nearest < lowest:
                continue
            _blend_row(acc, np.uint64(row) * _ROW, exponent, across, dx, colour, limits)


@kernel()
def _any_alive(acc: Any, alive: Any, rows: int) -> bool:
    found = False
    for row in range(rows):
        if alive[row] == 0:
            continue
        light = np.float32(0)
        base = np.uint64(row) * _ROW
        for i in range(_WIDE):
            light += acc[base + i]
        if light > np.float32(0):
            found = True
        else:
            alive[row] = 0
    return found


@kernel()
def blend(span: Any, starts: Any, lists: Any, records: Any, size: Any, limits: Any, accumulators: Any) -> None:
    """Blend the tiles `span` into their accumulators [tiles, values], which `begin` made, behind what lies there."""
    width, height = size
    tiles_x = (width + TILE_WIDTH - 1) // TILE_WIDTH
    for tile in range(span[0], span[1]):
        x0, y0 = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        rows = min(TILE_HEIGHT, height - y0)
        splats = lists[starts[tile] : starts[tile + 1]]
        _blend_tile(accumulators[tile], np.float32(x0), np.float32(y0), rows, splats, records, limits)


@kernel()
def begin(accumulators: Any, width: int) -> None:
    """Nothing blended yet: all light comes through, but for pixels past the picture's edge, which count as ended."""
    tiles_x = (width + TILE_WIDTH - 1) // TILE_WIDTH
    for tile in range(accumulators.shape[0]):
        columns = min(TILE_WIDTH, width - tile % tiles_x * TILE_WIDTH)
        accumulators[tile] = np.float32(0)
        for row in range(TILE_HEIGHT):
            base = row * TILE_WIDTH * _CHANNELS
            accumulators[tile, base : base + columns] = np.float32(1)


@kernel()
def finish(span: Any, accumulators: Any, size: Any, background: Any, out: Any) -> None:
    """Write the tiles `span` to `out` = (rgb, alpha, depth), flat; depth may be empty."""
    width, height = size
    rgb, alphas, depths = out
    tiles_x = (width + TILE_WIDTH - 1) // TILE_WIDTH
    for tile in range(span[0], span[1]):
        acc = accumulators[tile]
        x0, y0 = tile % tiles_x * TILE_WIDTH, tile // tiles_x * TILE_HEIGHT
        rows, columns = min(TILE_HEIGHT, height - y0), min(TILE_WIDTH, width - x0)
        for row in range(rows):
            base = row * TILE_WIDTH * _CHANNELS
            for column in range(columns):
                at = (y0 + row) * width + x0 + column
                alpha = acc[base + 4 * TILE_WIDTH + column]
                light = np.float32(1) - alpha
                for channel in range(3):
                    rgb[3 * at + channel] = (
                        acc[base + (1 + channel) * TILE_WIDTH + column] + light * background[channel]
                    )
                alphas[at] = alpha
                if depths.shape[0] > 0:
                    depths[at] = acc[base + 5 * TILE_WIDTH + column] / alpha if alpha > 0 else np.float32(0)
