"""The Triton server of the nvidia-pytriton wheel: where its files lie, its backend folder, and can it run here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

_STUB = "triton_python_backend_stub"
_UTILS = "triton_python_backend_utils.py"
_LIBRARY = "libtriton_python.so"
PYTHONS = ("3.11", "3.12")
DEFAULT_BACKENDS = Path(sys.prefix) / "share" / "splatfleet"  # made by `make install`, whatever the current folder


class TritonUnavailable(Exception):
    """No Triton server can run here; one line with the reason and the fix."""


def server_binary() -> Path:
    """The `tritonserver` of the wheel; raises TritonUnavailable."""
    return _wheel() / "tritonserver" / "bin" / "tritonserver"


def library_path() -> str:
    """LD_LIBRARY_PATH for server and stub: libpython of this very interpreter first, then the wheel's libraries."""
    found = [sysconfig.get_config_var("LIBDIR"), str(_wheel().parent / "nvidia_pytriton.libs")]
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return os.pathsep.join([part for part in (*found, inherited) if part])


def build_backends(folder: Path) -> Path:
    """Make `folder/<wheel>-<python>/` with the Python backend and the stub of this Python; once, then it is reused.

    Checks each time that all the stub links to is found: a stub that cannot load hangs the server for ever.
    Raises TritonUnavailable.
    """
    _check_platform()
    wheel = _wheel()
    version = importlib.metadata.version("nvidia-pytriton")
    target = folder.resolve() / f"triton-{version}-py{_python()}"
    backend = target / "python"
    if not (backend / _STUB).exists():
        stub = wheel / "tritonserver" / "python_backend_stubs" / _python() / _STUB
        if not stub.is_file():
            raise TritonUnavailable(
                f"nvidia-pytriton {version} has no stub for Python {_python()}: use Python 3.11 or 3.12"
            )
        made = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        shutil.rmtree(made, ignore_errors=True)
        (made / "python").mkdir(parents=True)
        for source in (wheel / "tritonserver" / "backends" / "python" / _LIBRARY, stub):
            shutil.copy2(source, made / "python" / source.name)
        shutil.copy2(wheel / "tritonserver" / "backends" / "python" / _UTILS, made / "python" / _UTILS)
        try:
            made.rename(target)
        except OSError:  # somebody else was quicker
            shutil.rmtree(made, ignore_errors=True)
    _check_links(backend / _STUB)
    return target


def _python() -> str:
    return "{}.{}".format(*sys.version_info[:2])


def _check_platform() -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "AMD64"):
        raise TritonUnavailable(
            f"the Triton of nvidia-pytriton runs on x86-64 Linux, this is {sys.platform} {platform.machine()}: "
            "use such a machine or Triton's container"
        )
    libc, version = platform.libc_ver()
    if libc == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < (2, 35):
        raise TritonUnavailable(f"Triton needs glibc 2.35 or newer, this is {version}: use Debian 12 or Ubuntu 22.04")
    if _python() not in PYTHONS:
        raise TritonUnavailable(
            f"Triton pods run on Python {' or '.join(PYTHONS)}, this is {_python()}: "
            "make the environment anew with python3.12 -m venv (docs/triton.md says what 3.13 would take)"
        )
    if int(np.__version__.split(".")[0]) >= 2:
        raise TritonUnavailable(
            f"numpy {np.__version__} breaks the stub of this Triton: pip install 'numpy<2' into the environment"
        )


def _wheel() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TritonUnavailable("the Triton server is not installed: pip install --no-deps nvidia-pytriton==0.7.0")
    return Path(spec.origin).parent


def _check_links(stub: Path) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": library_path()}
    try:
        shown = subprocess.run(
            ["ldd", str(stub)], capture_output=True, text=True, env=environment, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # no ldd: the start deadline has to do
    missing = [line.split()[0] for line in shown.stdout.splitlines() if "not found" in line]
    if missing:
        fix = "reinstall nvidia-pytriton"
        if any(name.startswith("libpython") for name in missing):
            fix = (
                f"this Python ({sys.base_prefix}) was built without a shared library; use one that has it "
                f"(apt-get install libpython{_python()}, or uv python install {_python()})"
            )
        raise TritonUnavailable(f"the Triton stub cannot load {', '.join(missing)}: {fix}")
