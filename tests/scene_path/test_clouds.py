"""Every store that a catalogue may name: files and HTTP for real, GCS and Azure against stubs of their wires.

No server of theirs runs here, so what these stubs prove is the path through our code (addresses, ranges, credentials,
refusals), not that Google or Microsoft agree.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from click.testing import CliRunner

from benchmarks.s3_server import S3Server
from renderer.catalogue import load_catalogue
from renderer.fetch_terms import Terms
from renderer.scene_source import digest_of
from renderer.scene_store import FetchFailed, SceneStore
from splatfleet.__main__ import main
from tests.scene_path.agents import MB, entry_of, make_scene
from tests.scene_path.fault_server import fault_server

AZURE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="  # the emulator's own
)


@dataclass
class Cloud:
    """Objects by path, and what was asked for: verb, path, range, whether a credential came along."""

    url: str
    objects: dict[str, bytes]
    busy: int = 0
    asked: list[tuple[str, str, str, bool]] = field(default_factory=list)


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None: ...

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            span = self.headers.get("range") or self.headers.get("x-ms-range") or ""
            signed = bool(self.headers.get("authorization")) or "sig=" in parts.query
            state.asked.append((self.command, path, span, signed))
            body = state.objects.get(path)
            status = 404 if body is None else 200
            if state.busy and self.command == "GET":
                state.busy -= 1
                status = 503
            if status != 200 or body is None:
                self.send_response(status)
                if status == 503:
                    self.send_header("retry-after", "1")
                self.send_header("content-length", "0")
                self.end_headers()
                return
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", span)
            start, end = (int(found[1]), min(int(found[2]) + 1, len(body))) if found else (0, len(body))
            self.send_response(206 if found else 200)
            for name, value in (
                ("content-length", str(end - start)),
                ("content-range", f"bytes {start}-{end - 1}/{len(body)}" if found else ""),
                ("last-modified", formatdate(0, usegmt=True)),
                ("etag", '"one"'),
                ("x-ms-blob-type", "BlockBlob"),
                ("x-goog-generation", "1"),
            ):
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[start:end])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state = Cloud(f"http://127.0.0.1:{server.server_port}", {})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


def point_at(cloud: Cloud, scheme: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials and endpoint by the environment of each cloud's own tools."""
    if scheme == "gs":
        account = {"gcs_base_url": cloud.url, "disable_oauth": True, "client_email": "", "private_key": ""}
        account |= {"private_key_id": ""}
        (folder / "account.json").write_text(json.dumps(account))
        monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(folder / "account.json"))
    else:
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", cloud.url)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "devstoreaccount1")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY)


@pytest.mark.parametrize("scheme", ["gs", "az"])
def test_scene_from_a_cloud(tmp_path: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    point_at(cloud, scheme, tmp_path, monkeypatch)
    make_scene(tmp_path / "big.ply", 120_000)
    entry = entry_of(tmp_path / "big.ply", f"{scheme}://scenes/v1/big.ply")
    store = SceneStore(tmp_path / "store", 100 * MB)
    with pytest.raises(FetchFailed, match="no such file"):
        store.ensure(entry)
    body = (tmp_path / "big.ply").read_bytes()
    root = "/scenes/v1/big.ply" if scheme == "gs" else "/devstoreaccount1/scenes/v1/big.ply"
    cloud.objects = dict.fromkeys((root, "/scenes/v1/big.ply"), body)
    cloud.busy = 1
    cloud.asked.clear()
    stored = store.ensure(entry, pack=False, terms=Terms(ranges=4))
    assert digest_of(stored.source) == entry.digest
    spans = {span for verb, _, span, _ in cloud.asked if verb == "GET" and span and span != "bytes=0-0"}
    assert len(spans) == 2, "it did not come in ranges"
    if scheme == "az":
        assert all(signed for *_, signed in cloud.asked), "a request went out without its credential"


def test_scene_from_a_file_and_over_http(tmp_path: Path) -> None:
    make_scene(tmp_path / "ball.ply")
    with fault_server((tmp_path / "ball.ply").read_bytes()) as server:
        for number, uri in enumerate((None, server.url)):
            entry = entry_of(tmp_path / "ball.ply", uri)
            stored = SceneStore(tmp_path / f"store-{number}", 10 * MB).ensure(entry)
            assert digest_of(stored.source) == entry.digest


def catalogue(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["scene", "catalogue", *arguments], env=environment)
    return done.exit_code, done.output


def test_catalogue_of_a_folder(tmp_path: Path) -> None:
    make_scene(tmp_path / "scenes" / "rooms" / "Kitchen 1.ply", 1500)
    make_scene(tmp_path / "scenes" / "tiny.ply", 30)
    (tmp_path / "scenes" / "broken.ply").write_bytes(b"ply\nformat nothing\n")
    out = tmp_path / "catalogue.json"
    code, said = catalogue(str(tmp_path / "scenes"), "--out", str(out))
    assert code == 0, said
    assert "1 scenes" in said
    assert "broken: skipped" in said
    entry = load_catalogue(out).get("rooms-kitchen-1")
    assert entry.digest == digest_of(tmp_path / "scenes" / "rooms" / "Kitchen 1.ply")
    assert SceneStore(tmp_path / "store", 10 * MB).ensure(entry).record.gaussians == 1500
    (tmp_path / "empty").mkdir()
    assert catalogue(str(tmp_path / "empty"), "--out", str(tmp_path / "no.json"))[0] == 1
    assert not (tmp_path / "no.json").exists()
    assert catalogue("ftp://host/x")[0] == 2


def test_catalogue_of_an_object_store(tmp_path: Path, s3: S3Server) -> None:
    if not s3.is_real:
        pytest.skip("the stub of S3 lists nothing; versitygw is not installed (SPLATFLEET_VERSITYGW)")
    make_scene(tmp_path / "knot.ply", 1200)
    for name in ("listed/a/knot.ply", "listed/readme.txt"):
        (s3.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (s3.folder / name).write_bytes((tmp_path / "knot.ply").read_bytes())
    out = tmp_path / "catalogue.json"
    code, said = catalogue("s3://scenes/listed", "--out", str(out), environment=s3.environment())
    assert code == 0, said
    (entry,) = load_catalogue(out).entries.values()
    assert (entry.id, entry.uri) == ("a-knot", "s3://scenes/listed/a/knot.ply")
    assert entry.digest == digest_of(tmp_path / "knot.ply")
    assert catalogue("s3://scenes/listed", "--out", str(out))[0] == 1, "without credentials it was listed"
