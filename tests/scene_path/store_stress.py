"""Random operations on one store: `python -m tests.scene_path.store_stress ROOT CATALOGUE CAPACITY OPERATIONS SEED`."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from renderer.catalogue import load_catalogue
from renderer.fetch_terms import Stopped, Terms
from renderer.scene_source import digest_of
from renderer.scene_store import FetchFailed, NotStored, SceneStore
from renderer.store_space import StoreFull


def main(root: Path, catalogue: Path, capacity_bytes: int, operations: int, seed: int) -> None:
    """Fetch, read and verify, evict, stop in the middle; prints how often each ended how."""
    chance = random.Random(seed)
    entries = list(load_catalogue(catalogue).entries.values())
    store = SceneStore(root, capacity_bytes, room_wait_s=0.05)
    counts: Counter[str] = Counter()
    for _ in range(operations):
        entry = chance.choice(entries)
        operation = chance.choice(("ensure", "ensure", "open", "open", "evict", "stop", "list"))
        try:
            if operation == "ensure":
                store.ensure(entry, pack=chance.random() < 0.3)
            elif operation == "open":
                with store.open(entry.id) as held:
                    assert digest_of(held.source) == entry.digest, f"{entry.id} is visible with other bytes"
            elif operation == "evict":
                store.evict(entry.id)
            elif operation == "stop":
                asked = iter(range(chance.randrange(3)))
                store.ensure(entry, pack=False, terms=Terms(stopped=lambda asked=asked: next(asked, None) is None))  # type: ignore[misc]
            else:
                store.records()
            counts[operation] += 1
        except (NotStored, StoreFull, Stopped) as error:
            counts[f"{operation}: {type(error).__name__}"] += 1
        except FetchFailed as error:
            raise AssertionError(f"{operation} of {entry.id}: {error}") from error
    print(json.dumps(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
