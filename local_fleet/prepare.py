"""What `make install` does last: lay out Triton's Python backend and compile what is compiled, each once."""

from __future__ import annotations

import sys
import time
from importlib import import_module

from local_fleet.triton_files import DEFAULT_BACKENDS
from local_fleet.triton_server import TritonUnavailable, build_backends
from renderer.cpu import compile_kernels


def main() -> int:
    """Prepare this machine; 1 with one line where it cannot run the local fleet."""
    try:
        print(f"       backend in {build_backends(DEFAULT_BACKENDS)}")
    except TritonUnavailable as error:
        print(f"make install: {error}", file=sys.stderr)
        return 1
    begun_s = time.monotonic()
    compile_kernels()
    import_module("scheduler_extender.wire")  # its loops are compiled where they are imported
    print(f"       kernels compiled in {time.monotonic() - begun_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
