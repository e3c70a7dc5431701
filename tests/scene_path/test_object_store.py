"""Against a real S3 server: publish, warm a node without a pod, start a pod there; credentials, and who learns them."""

from __future__ import annotations

import json
from pathlib import Path

import httpx2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from benchmarks.s3_server import ACCESS_KEY, SECRET_KEY, S3Server
from fleet import metrics
from fleet.scene import SceneId
from renderer import constants, oracle
from renderer.camera import look_at, matrices
from renderer.catalogue import CatalogueEntry, load_catalogue
from renderer.encoding import to_pixels
from renderer.fetch_terms import Terms
from renderer.pod import RendererPod
from renderer.pod_settings import PodSettings
from renderer.scene_source import digest_of
from renderer.scene_store import FetchFailed, SceneStore
from splatfleet.__main__ import main
from tests.scene_path.agents import MB, TOKEN, Agent, entry_of, make_scene
from tests.scene_path.conftest import StartAgent


def publish(path: Path, catalogue: Path, *flags: str, environment: dict[str, str]) -> Result:
    arguments = ["scene", "publish", str(path), "--catalogue", str(catalogue), *flags]
    return CliRunner().invoke(main, arguments, env=environment)


class Watcher:
    """Counts what a pod fetches and where it loads from."""

    def __init__(self) -> None:
        self.fetched_bytes = 0
        self.sources: list[str] = []

    def fetched(self, count_bytes: int) -> None:
        self.fetched_bytes += count_bytes

    def loaded(self, source: str, _seconds: float) -> None:
        self.sources.append(source)

    def peer_fetched(self, count_bytes: int) -> None: ...
    def quarantined(self) -> None: ...
    def looked_up(self, hit: bool) -> None: ...
    def evicted(self, scene: object, cause: object) -> None: ...
    def changed(self, resident: object, draining_bytes: int) -> None: ...
    def rendered(self, seconds: float) -> None: ...


def test_publish_warm_a_node_without_a_pod_and_start_one(tmp_path: Path, s3: S3Server, start_agent: StartAgent) -> None:
    splats = make_scene(tmp_path / "ball.ply", 2_000)
    catalogue = tmp_path / "catalogue.json"
    done = publish(tmp_path / "ball.ply", catalogue, "--to", "s3://scenes/v1", environment=s3.environment())
    assert done.exit_code == 0, done.output
    entry = load_catalogue(catalogue).get("ball")
    assert entry.uri.startswith("s3://scenes/v1/ball-")
    agent = start_agent("node-1", [entry], environment=s3.environment())
    agent.client.ask("ball", 30.0)
    agent.wait_state("ball", "stored")
    assert agent.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes
    watcher = Watcher()
    # No credentials here: this pod can only be ready because the scene is on its node.
    pod = RendererPod(PodSettings(catalogue, agent.layout.root, scenes=(entry.id,), rasterizer="cpu"), watcher)
    assert (watcher.fetched_bytes, watcher.sources) == (0, ["packed"])
    camera = look_at((0, 0, -4), (0, 0, 0), (0, -1, 0), 50, 96, 64)
    asked = {"scene": "ball", "width": 96, "height": 64, "format": "raw"}
    frame = pod.answer(asked, *matrices(camera)).pixels
    truth = oracle.rasterize(splats, camera, (0.0, 0.0, 0.0), None, frozenset({"rgb"}), constants.DEFAULT)
    difference = np.abs(frame.astype(int) - to_pixels(truth, "rgb")[0].astype(int))
    assert difference.max() <= 2
    assert frame.max() > 50, "the frame is black"


def test_publishing_again_changes_nothing_and_other_bytes_need_replace(tmp_path: Path, s3: S3Server) -> None:
    make_scene(tmp_path / "cup.ply", 300, seed=1)
    catalogue = tmp_path / "catalogue.json"
    target = ["--to", "s3://scenes/again", "--credit", "Ada"]
    first = publish(tmp_path / "cup.ply", catalogue, *target, environment=s3.environment())
    again = publish(tmp_path / "cup.ply", catalogue, *target, environment=s3.environment())
    assert (first.exit_code, again.exit_code) == (0, 0), first.output + again.output
    assert ("published" in first.output, "was there already" in again.output) == (True, True)
    before = catalogue.read_text()
    make_scene(tmp_path / "cup.ply", 300, seed=2)
    refused = publish(tmp_path / "cup.ply", catalogue, *target, environment=s3.environment())
    assert refused.exit_code == 1
    assert "--replace" in refused.output
    (tmp_path / "cup.ply").write_bytes((tmp_path / "cup.ply").read_bytes()[:-50])
    damaged = publish(tmp_path / "cup.ply", catalogue, *target, "--replace", environment=s3.environment())
    assert damaged.exit_code == 1
    nowhere = publish(tmp_path / "cup.ply", catalogue, "--to", "ftp://host", environment=s3.environment())
    assert nowhere.exit_code == 2
    assert catalogue.read_text() == before
    make_scene(tmp_path / "cup.ply", 300, seed=2)
    replaced = publish(tmp_path / "cup.ply", catalogue, *target, "--replace", "--packed", environment=s3.environment())
    assert replaced.exit_code == 0, replaced.output
    assert load_catalogue(catalogue).get("cup").uri.endswith(".packed")


def test_large_object_in_ranges_is_whole(tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scene(tmp_path / "big.ply", 200_000)
    (s3.folder / "big.ply").write_bytes((tmp_path / "big.ply").read_bytes())
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    entry = entry_of(tmp_path / "big.ply", "s3://scenes/big.ply")
    for ranges in (1, 8):
        store = SceneStore(tmp_path / f"store-{ranges}", 100 * MB)
        stored = store.ensure(entry, pack=False, terms=Terms(ranges=ranges))
        assert stored.fetched_bytes == entry.source_bytes > 2 * (8 << 20)
        assert digest_of(stored.source) == entry.digest


def test_credentials_from_a_file_rotate_and_no_one_tells_them(
    tmp_path: Path, s3: S3Server, start_agent: StartAgent
) -> None:
    """A wrong key, then the right one, in the same process; then every output is searched for all of them."""
    wrong = "wrong-secret-key-of-tests-9876543210"
    for seed, name in enumerate(("one", "two")):
        make_scene(tmp_path / f"{name}.ply", 300, seed)
        (s3.folder / f"{name}.ply").write_bytes((tmp_path / f"{name}.ply").read_bytes())
    entries = [entry_of(tmp_path / f"{name}.ply", f"s3://scenes/{name}.ply") for name in ("one", "two")]
    keys = tmp_path / "credentials"

    def write_keys(secret: str, access: str = ACCESS_KEY) -> None:
        keys.write_text(f"[default]\naws_access_key_id = {access}\naws_secret_access_key = {secret}\n")

    write_keys(wrong, "WRONGACCESSKEY123456")
    environment = {**s3.address(), "AWS_SHARED_CREDENTIALS_FILE": str(keys)}
    agent = start_agent("node-1", entries, environment=environment)
    agent.client.ask("one", 30.0)
    assert agent.wait_state("one", "failed", "stored") == "failed"
    assert "s3://scenes/one.ply" in agent.reason("one")
    refused = json.dumps(agent.client.listing())
    write_keys(SECRET_KEY)
    agent.client.ask("one", 30.0)
    agent.wait_state("one", "stored")
    keys.write_text("[default]\n")
    agent.client.ask("two", 30.0)
    agent.wait_state("two", "failed")
    assert "needs aws_access_key_id" in agent.reason("two")
    said = [
        refused,
        json.dumps(agent.client.listing()),
        agent.log.read_text(),
        Path(f"/proc/{agent.process.pid}/cmdline").read_text(),
        httpx2.get(agent.url + "/metrics").text,
        *(path.read_text() for path in agent.layout.root.rglob("*.json")),
        node_digest(agent),
    ]
    secrets = (SECRET_KEY, wrong, ACCESS_KEY, "WRONGACCESSKEY123456", TOKEN)
    found = [(secret, number) for secret in secrets for number, text in enumerate(said) if secret in text]
    assert found == []
    assert all(said)


def node_digest(agent: Agent) -> str:
    """What the exporter says of the agent's node."""
    from starlette.testclient import TestClient

    from exporter.app import build_app
    from exporter.sources import Sources

    sources = Sources(
        node="node-1", triton=(), renderers_file=None, scene_cache=agent.layout.root, gpus_file=None, dcgm="",
        window_s=10.0, deadline_s=1.0,
    )  # fmt: skip
    with TestClient(build_app(sources)) as client:
        text = client.get("/v1/node").text
    assert '"one"' in text
    return text


def test_errors_of_a_bucket_are_one_line_without_secrets(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_scene(tmp_path / "ball.ply", 300)
    (s3.folder / "ball.ply").write_bytes((tmp_path / "ball.ply").read_bytes())
    wrong = {"AWS_ACCESS_KEY_ID": "WRONGACCESSKEY123456", "AWS_SECRET_ACCESS_KEY": "wrong-secret-key-of-tests-98765"}
    for name, value in {**s3.environment(), **wrong}.items():
        monkeypatch.setenv(name, value)
    store = SceneStore(tmp_path / "store", 100 * MB)
    with pytest.raises(FetchFailed) as caught:
        store.ensure(entry_of(tmp_path / "ball.ply", "s3://scenes/ball.ply"))
    told: BaseException | None = caught.value
    while told is not None:  # a traceback prints the whole chain
        assert "\n" not in str(told)
        assert not any(secret in str(told) for secret in wrong.values())
        told = told.__cause__ or (None if told.__suppress_context__ else told.__context__)
    with pytest.raises(FetchFailed, match="there is no such file|403|40[34]|denied|privileges"):
        store.ensure(CatalogueEntry(SceneId("gone"), "s3://scenes/gone.ply"))
