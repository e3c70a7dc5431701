#!/usr/bin/env python3
"""Carry out the steps of a target of deploy/Dockerfile without a container engine: `try-dockerfile.py TARGET...`.

What a stage copies is copied into an empty folder, what it runs is run there with folders of its own in the place of
/src and /opt, and then every verb that the chart starts in that image is started with the installed package. Targets on
Triton's image are left out: their base cannot be had without an engine.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
FILE = REPOSITORY / "deploy" / "Dockerfile"
# What the image is for, started so far that everything it imports is imported; each ends by itself with this exit code.
STARTS: dict[str, tuple[tuple[list[str], int], ...]] = {
    "node": (
        (["exporter", "--kubernetes", "--scene-cache=.", "--listen=nonsense"], 2),
        (["scene-agent", "--store=.", "--catalogue=gone.json", "--capacity-gb=1", "--token-file=gone"], 2),
    ),
    "extender": ((["extender", "--kubernetes", "--listen=nonsense"], 2),),
    "autoscaler": ((["autoscaler", "--kubernetes", "--kubeconfig=gone", "--prometheus=http://127.0.0.1:9"], 2),),
    "gateway": ((["gateway", "--kubernetes", "--catalogue=gone.json", "--listen=nonsense"], 2),),
    "tools": ((["load", "--gateway=http://127.0.0.1:9", "--duration=1", "--mean-rate=1", "--scenes=a"], 1),),
}
MODULES = {
    "node": "exporter.app, kube.discovery, kubernetes, renderer.scene_agent, renderer.packed",
    "extender": "scheduler_extender.server, scheduler_extender.kubernetes, kubernetes",
    "autoscaler": "autoscaler.runner, autoscaler.kubernetes_cluster, autoscaler.external_scaler, kubernetes",
    "gateway": "renderer.gateway.app, kube.discovery, kubernetes, tritonclient.grpc.aio",
    "tools": "local_fleet.load, renderer.publish, simulator.scaling, obstore",
}


def stage(name: str) -> tuple[str, list[tuple[str, str]]]:
    """Base and instructions of a stage."""
    text = FILE.read_text().replace("\\\n", " ")
    found = re.search(rf"^FROM (\S+) AS {re.escape(name)}$(.*?)(?=^FROM |\Z)", text, re.M | re.S)
    if found is None:
        raise SystemExit(f"{FILE.name}: no target {name}")
    lines = [line.strip() for line in found[2].splitlines() if line.strip() and not line.startswith("#")]
    return found[1], [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def carry_out(name: str, root: Path, environment: dict[str, str]) -> None:
    """The stages below one, then itself."""
    base, instructions = stage(name)
    if not base.startswith("$"):
        carry_out(base, root, environment)
    for word, rest in instructions:
        if word == "ENV":
            environment.update(re.findall(r"(\w+)=(\S+)", rest.replace("$PATH", environment["PATH"])))
        elif word == "COPY":
            copy(rest.split(), root)
        elif word == "RUN":
            command = rest.replace("/opt/", f"{root}/opt/").replace("python -m", f"{python()} -m", 1)
            print(f"{name}: RUN {rest}", flush=True)
            subprocess.run(["sh", "-ec", command], cwd=root / "src", env=environment, check=True)


def copy(words: list[str], root: Path) -> None:
    if words[0].startswith("--from="):  # the environment is where it is already
        return
    for source in words[:-1]:
        target = root / "src" / words[-1]
        if (REPOSITORY / source).is_dir():
            shutil.copytree(REPOSITORY / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target = target / Path(source).name if words[-1].endswith("/") else target
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / source, target)


def python() -> str:
    """The version of the image, where this machine has it."""
    wanted = re.search(r"^ARG PYTHON_IMAGE=\S*python:(\d+\.\d+)", FILE.read_text(), re.M)
    found = shutil.which(f"python{wanted[1]}") if wanted else None
    if found is None:
        print(f"no python{wanted[1] if wanted else ''} here: {sys.version.split()[0]} stands in", flush=True)
    return found or sys.executable


def try_target(name: str) -> None:
    """Raises CalledProcessError and AssertionError at the first step that does not do what it should."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "src").mkdir()
        (root / "opt").mkdir()
        environment = {"PATH": os.defpath, "HOME": folder}
        carry_out(f"build-{name}", root, environment)
        shutil.rmtree(root / "src")  # a stage of its own: nothing of the source is left
        bin_ = root / "opt" / "venv" / "bin"
        empty = root / "tmp"
        empty.mkdir()
        subprocess.run([bin_ / "python", "-c", f"import {MODULES[name]}"], cwd=empty, env=environment, check=True)
        for words, code in STARTS[name]:
            done = subprocess.run([bin_ / "splatfleet", *words], cwd=empty, env=environment, capture_output=True,
                                  text=True, timeout=120, check=False)  # fmt: skip
            said = (done.stderr.strip().splitlines() or [""])[-1]
            print(f"{name}: splatfleet {words[0]} -> {done.returncode} {said}", flush=True)
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr, done.stderr
        files = (path for path in (root / "opt").rglob("*") if path.is_file() and not path.is_symlink())
        size = sum(path.stat().st_size for path in files)
        print(f"{name}: good, {size / 1e6:.0f} MB in /opt/venv", flush=True)


if __name__ == "__main__":
    for target in sys.argv[1:] or list(STARTS):
        try_target(target)
