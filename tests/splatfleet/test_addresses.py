"""Every server says the same when its address is taken: the flag, the address, the fix; exit code 1."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from splatfleet.addresses import is_url, parse_listen, parse_node_digests
from splatfleet.settings import UsageError
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["exporter", "extender", "autoscaler", "gateway", "scene-agent"])
def test_a_taken_address_is_one_line_with_its_fix(name: str, tmp_path: Path) -> None:
    (tmp_path / "renderers.json").write_text('{"renderers": [], "version": 1}')
    (tmp_path / "catalogue").write_text('{"version": 1, "scenes": []}')
    (tmp_path / "token-file").write_text("a-token-of-the-test\n")
    flags = {
        "exporter": ["--scene-cache", str(tmp_path)],
        "extender": ["--node-digest", "node-1=http://127.0.0.1:1"],
        "autoscaler": ["--pools", "renderer", "--gateway", "http://127.0.0.1:1"],
        "gateway": ["--renderers-file", str(tmp_path / "renderers.json")],
        "scene-agent": [f"--{flag}={tmp_path}/{flag}" for flag in ("store", "catalogue", "token-file")],
    }
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "splatfleet", name, *flags[name], "--listen", address]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=60)
    assert done.returncode == 1, done.stderr
    assert f"--listen {address}: another process listens there; end it, or give another port" in done.stderr
    assert "Traceback" not in done.stderr


NO_URLS = ["", "http://", "http://[", "http://a:99999", "http://a:b", "http://a b", "ftp://a", "http://:80", "a:80"]


@pytest.mark.parametrize("text", NO_URLS)
def test_what_is_no_url_is_a_usage_error(text: str) -> None:
    assert not is_url(text)
    with pytest.raises(UsageError, match="expected NAME=URL"):
        parse_node_digests([f"node-1={text}"])


@pytest.mark.parametrize("text", ["http://a", "https://a:1/x", "http://[::1]:9465", "http://user:word@a"])
def test_what_is_a_url(text: str) -> None:
    assert is_url(text)


@pytest.mark.parametrize("text", ["a", ":1", "a:-1", "a:65536", "a:" + "9" * 5000])
def test_what_is_no_address_to_listen_on(text: str) -> None:
    with pytest.raises(UsageError, match="is no address"):
        parse_listen(text)
