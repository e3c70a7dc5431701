"""Children that end are reaped, whoever looks at them."""

from __future__ import annotations

import os
import time
from pathlib import Path

from local_fleet.spawn import spawn


def test_child_that_ended_is_no_zombie(tmp_path: Path) -> None:
    process = spawn(["/bin/true"], tmp_path / "log", tmp_path, os.environ)
    end_s = time.monotonic() + 30.0
    while Path(f"/proc/{process.pid}").exists():  # as a zombie has one, and nobody here asks for its code
        assert time.monotonic() < end_s, "nobody reaped it"
        time.sleep(0.02)
    assert process.poll() == 0
