"""The Triton process: faults at start, deaths of stub, server and parent, and what is left behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from fleet import labels
from local_fleet.triton_server import Ports, TritonFailed, TritonServer, free_ports
from renderer.camera import look_at, matrices
from renderer.client import RendererError, render_once
from splatfleet import triton
from splatfleet.probe import COMMAND as PROBE
from tests.triton.conftest import MakeServer

pytestmark = [pytest.mark.triton, pytest.mark.waits]

REPOSITORY = Path(__file__).resolve().parents[2]
VIEW, PROJECTION = matrices(look_at((0, -1, -4), (0, 0, 0), (0, -1, 0), 50, 16, 16))


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def regions() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("splatfleet_*") if f"_{os.getpid()}_" in path.name}


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all ended; a zombie has (psutil's own wait would reap it before its parent can)."""
    return eventually(lambda: not any(_lives(process) for process in processes))


def eventually(holds: Callable[[], bool], deadline_s: float = 30.0) -> bool:
    end_s = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.02)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({labels.SCENES_ENV: "knot,nope"}, "scene 'nope' is not in the catalogue; known are broken, knot"),
        ({labels.SCENES_ENV: "broken"}, "scene broken cannot be loaded: .*broken.ply"),
        ({labels.POD_BUDGET_ENV: "1000", labels.SCENES_ENV: "knot"}, "takes .* bytes, the pod's budget is 1000"),
        ({labels.CATALOGUE_ENV: "/nowhere.json"}, "catalogue /nowhere.json"),
        ({labels.DEFAULT_SIZE_ENV: "big"}, "SPLATFLEET_DEFAULT_SIZE='big'"),
        ({labels.STORE_CAPACITY_ENV: "1000", labels.SCENES_ENV: "knot"}, "scene knot has .* holds 1000 at most"),
    ],
)
def test_pod_that_cannot_start_is_never_ready_and_says_why(
    make_server: MakeServer, environment: dict[str, str], reason: str
) -> None:
    server = make_server(**environment)
    server.start()
    with pytest.raises(TritonFailed, match=reason) as caught:
        server.wait_ready()
    assert "\n" not in str(caught.value)
    assert server.exit_code() is not None
    own = [line for line in server.log.read_text().splitlines() if line.startswith("splatfleet: renderer cannot start")]
    assert len(own) == 1
    assert not any(name.startswith(server._shm_prefix) for name in regions())


def test_dead_stub_still_says_ready_but_fails_the_probe(make_server: MakeServer, tmp_path: Path) -> None:
    server = make_server(**{labels.SCENES_ENV: "knot"})
    server.start()
    server.wait_ready()
    probe = ["--grpc", server.grpc_address]
    alive = CliRunner().invoke(PROBE, probe)
    assert (alive.exit_code, "alive" in alive.output) == (0, True)
    stub = next(process for process in family(server.pid) if "stub" in process.name())
    stub.kill()
    assert gone([stub])
    assert server.ready, "Triton learnt to notice a dead stub; this test and the probe's reason are out of date"
    dead = CliRunner().invoke(PROBE, [*probe, "--json", str(tmp_path / "dead.json")])
    assert dead.exit_code == 1
    assert json.loads((tmp_path / "dead.json").read_text())["error"] == "unavailable"
    assert "is not healthy" in dead.stderr
    server.stop(0.5)
    assert not any(name.startswith(server._shm_prefix) for name in regions())


def test_killed_server_is_told_apart(make_server: MakeServer) -> None:
    server = make_server(**{labels.SCENES_ENV: "knot"})
    server.start()
    server.wait_ready()
    everybody = family(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert gone(everybody), "the stub outlived its server"
    # Its first thread is a zombie a moment before the last one has ended, and only then is there a code to reap.
    assert eventually(lambda: server.exit_code() is not None)
    assert (server.exit_code(), server.ready) == (-signal.SIGKILL, False)
    for protocol, address in (("grpc", server.grpc_address), ("http", server.http_address)):
        with pytest.raises(RendererError) as caught:
            render_once(address, VIEW, PROJECTION, protocol=protocol, timeout_s=3)  # type: ignore[arg-type]
        assert caught.value.kind == "unavailable"
    server.stop()
    assert not any(name.startswith(server._shm_prefix) for name in regions())


def test_stub_that_cannot_look_dies_with_a_killed_server(make_server: MakeServer) -> None:
    server = make_server(**{labels.SCENES_ENV: "knot"})
    server.start()
    server.wait_ready()
    everybody = family(server.pid)
    stub = next(process for process in everybody if "stub" in process.name())
    assert eventually(lambda: f"with Triton ({server.pid})" in server.log.read_text()), "the kernel was not asked"
    assert server.ready, "the signal came with the end of the thread that loaded the model"
    os.kill(stub.pid, signal.SIGSTOP)
    os.kill(server.pid, signal.SIGKILL)
    assert gone(everybody), "a stopped stub outlived its server"


@pytest.mark.parametrize("after_s", [0.1, 0.5, 1.0])
def test_server_killed_while_it_starts_leaves_nobody(make_server: MakeServer, after_s: float) -> None:
    server = make_server(**{labels.SCENES_ENV: "knot"})
    server.start()
    time.sleep(after_s)  # wherever it then is: the stub's start, its imports, the load
    everybody = family(server.pid)
    os.kill(server.pid, signal.SIGKILL)
    assert gone(everybody)


def test_stub_that_waits_for_an_answer_ends_with_its_server(make_server: MakeServer) -> None:
    server = make_server(**{labels.SCENES_ENV: "knot"})
    server.start()
    assert eventually(lambda: bool(_that_imported("numpy", family(server.pid)))), "the stub imports nothing"
    everybody = family(server.pid)
    (stub,) = _that_imported("numpy", everybody)
    os.kill(server.pid, signal.SIGSTOP)  # so the first metric is registered with nobody, under the interpreter's lock
    assert eventually(lambda: _is_idle(stub)), "it waits for nothing"
    os.kill(server.pid, signal.SIGKILL)
    assert gone(everybody), "it waits for ever"


def _that_imported(module: str, processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that have a library of the module in their memory."""
    found = []
    for process in processes:
        with contextlib.suppress(OSError):  # it went meanwhile
            found += [process] if module in Path(f"/proc/{process.pid}/maps").read_text() else []
    return found


def _is_idle(process: psutil.Process) -> bool:
    """Whether it used no processor time for a second."""
    before = process.cpu_times()
    time.sleep(1.0)
    after = process.cpu_times()
    return (after.user, after.system) == (before.user, before.system)


def test_several_start_at_once_and_stop_clean(make_server: MakeServer) -> None:
    servers = [make_server() for _ in range(3)]
    for server in servers:
        server.start()
    for server in servers:
        server.wait_ready()
    assert len({server.http_address for server in servers}) == 3
    processes = [process for server in servers for process in family(server.pid)]
    for server in servers:
        os.kill(server.pid, signal.SIGTERM)
    for server in servers:
        server.stop()
        # One that hangs is ended by Triton's own limit (exit code 1) or by ours (a signal), long after a busy machine.
        assert server.exit_code() == 0, "it did not end by itself"
    assert gone(processes)


def test_lost_port_is_replaced_unless_it_was_asked_for(
    make_server: MakeServer, backends: Path, tmp_path: Path, catalogue: Path
) -> None:
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        free = free_ports()
        server = make_server()
        server._ports = Ports(taken, free.grpc, free.metrics)
        server.start()
        server.wait_ready()
        assert not server.http_address.endswith(f":{taken}")
        environment = {labels.CATALOGUE_ENV: str(catalogue), labels.SCENE_CACHE_ENV: str(tmp_path / "store")}
        fixed = TritonServer(backends, tmp_path, environment, Ports(taken, *vars_of(free_ports())))
        fixed.start()
        with pytest.raises(TritonFailed, match=str(taken)):
            fixed.wait_ready()


def vars_of(ports: Ports) -> tuple[int, int]:
    return ports.grpc, ports.metrics


_PARENT = """
import sys, threading, time
from pathlib import Path
from local_fleet.triton_server import TritonServer
server = TritonServer(Path(sys.argv[1]), Path(sys.argv[2]), {"SPLATFLEET_CATALOGUE": sys.argv[3],
                      "SPLATFLEET_SCENE_CACHE": sys.argv[2] + "/store"})
starter = threading.Thread(target=server.start)  # its end must not take the server along
starter.start()
starter.join()
server.wait_ready()
time.sleep(0.3)
print(server.pid if server.ready else "died with the thread that started it", flush=True)
time.sleep(60)
"""


def test_killed_parent_leaves_no_process_and_the_next_start_sweeps(
    make_server: MakeServer, backends: Path, tmp_path: Path, catalogue: Path
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(backends), str(tmp_path), str(catalogue)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert parent.stdout is not None
    everybody = family(int(parent.stdout.readline()))
    assert len(everybody) >= 2
    parent.kill()
    parent.communicate()
    assert gone(everybody)
    left = list(Path("/dev/shm").glob(f"splatfleet_{parent.pid}_*"))
    server = make_server()
    server.start()
    assert not any(path.exists() for path in left)


def test_triton_verb_serves_and_ends_on_sigterm(catalogue: Path, tmp_path: Path) -> None:
    verb = subprocess.Popen(
        [sys.executable, "-m", "splatfleet", "triton", "--scenes", str(catalogue.parent), "--load", "knot"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
    )
    assert verb.stdout is not None
    scenes, addresses, example, curl = (verb.stdout.readline() for _ in range(4))
    assert scenes.startswith("3 scenes: knot, noise, planet")
    assert addresses.startswith("renderer is ready: http://127.0.0.1:")
    processes = family(verb.pid)
    probe = subprocess.run(
        [sys.executable, "-m", *example.split()[1:]],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=False,
    )
    assert probe.returncode == 0, probe.stderr
    shown = subprocess.run(curl.removeprefix("or:"), shell=True, capture_output=True, text=True, check=False)
    assert '\\"scene\\":\\"knot\\"' in shown.stdout
    verb.terminate()
    _, complaints = verb.communicate(timeout=40)
    assert verb.returncode == 0
    assert "broken: skipped" in complaints
    assert gone(processes)


def test_triton_verb_names_a_bad_folder(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, "-m", "splatfleet", "triton", "--scenes", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert said.returncode == 2
    assert said.stderr.strip() == f"Error: --scenes: {tmp_path / 'none'} is not a folder with scenes"


def test_ports_that_clash_are_named_by_their_flags(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flags, said in (
            (["--http-port", str(port)], f"--http-port {port}: somebody listens there already"),
            (["--http-port", "19001", "--grpc-port", "19001"], "--grpc-port is 19001, and so is --http-port"),
            (["--default-size", "0x9"], "--default-size '0x9': size is"),
        ):
            done = CliRunner().invoke(triton.COMMAND, ["--catalogue", str(tmp_path / "catalogue.json"), *flags])
            assert done.exit_code in (1, 2)
            assert said in done.output.splitlines()[-1]
