"""Garbage collection that no call waits for.

Thousands of digests are a million objects, and a full collection looks at each of them: a tenth of a second in which
nobody is answered. Digests hold no cycles, so full collections can wait until nobody calls.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

IDLE_S = 2.0
AT_MOST_EVERY_S = 60.0
AT_LEAST_EVERY_S = 900.0


async def collect_when_idle(clock: Callable[[], float], last_call_s: Callable[[], float]) -> None:
    """Take full collections over from the interpreter until cancelled; young objects are still its business."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()  # what is loaded by now stays
    gc.set_threshold(1000, 5, 1_000_000_000)
    done_s = clock()
    try:
        while True:
            await asyncio.sleep(1.0)
            now_s = clock()
            idle = now_s - last_call_s() > IDLE_S and now_s - done_s > AT_MOST_EVERY_S
            if idle or now_s - done_s > AT_LEAST_EVERY_S:
                gc.collect()
                done_s = clock()
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
