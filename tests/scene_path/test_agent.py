"""The scene agent as a process: what it lets in, what goes first, what it serves."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import httpx2
import pytest

from fleet import metrics
from renderer.agent_client import AgentError
from renderer.catalogue import Catalogue, save_catalogue
from renderer.scene_source import digest_of
from renderer.scene_store import SceneStore
from tests.scene_path.agents import MB, TOKEN, entry_of, make_scene, wait_for
from tests.scene_path.conftest import StartAgent

HTTP = httpx2.Client(verify=False)  # one for all: each makes a TLS context


def test_asked_scene_is_stored_packed_and_ready_for_a_pod(tmp_path: Path, start_agent: StartAgent) -> None:
    splats = make_scene(tmp_path / "www" / "ball.ply")
    entry = entry_of(tmp_path / "www" / "ball.ply")
    agent = start_agent("node-1", [entry])
    answers = [agent.client.ask("ball", deadline_s=30.0) for _ in range(3)]
    assert {answer["state"] for answer in answers} <= {"queued", "fetching", "stored"}
    agent.wait_state("ball", "stored")
    assert agent.client.ask("ball", deadline_s=30.0)["state"] == "stored"
    assert agent.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes, "asked twice, fetched twice"
    assert agent.count(metrics.AGENT_DEADLINES, outcome="met") >= 2
    fetched: list[int] = []
    stored = SceneStore(agent.layout.root, 100 * MB, on_fetched=fetched.append).ensure(entry)
    assert (stored.stage, fetched) == ("packed", [])
    assert re.search(r"audit .*action=warm .*code=202 .*outcome=done .*scene=ball", agent.log.read_text())
    assert stored.read().count == splats.count
    listing = agent.client.listing()
    assert 0 < listing["used_bytes"] < listing["capacity_bytes"]


def test_nobody_comes_in_without_a_token(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry_of(tmp_path / "ball.ply")])
    digest = digest_of(tmp_path / "ball.ply")
    asks = [
        ("PUT", "/v1/scenes/ball"),
        ("DELETE", "/v1/scenes/ball"),
        ("GET", "/v1/scenes"),
        ("GET", f"/v1/objects/{digest}"),
    ]
    for headers in ({}, {"authorization": "Bearer wrong-token-0123456789"}, {"authorization": f"Basic {TOKEN}"}):
        for verb, path in asks:
            answer = HTTP.request(verb, agent.url + path, json={"deadline_s": 1}, headers=headers)
            assert answer.status_code == 401, (verb, path)
            assert TOKEN not in answer.text
    assert agent.stored() == set()
    said = agent.log.read_text()
    assert all(f"action={action}" in said for action in ("warm", "evict", "list", "object"))
    assert said.count("outcome=denied") >= 4
    assert HTTP.get(agent.url + "/metrics").status_code == HTTP.get(agent.url + "/-/ready").status_code == 200


def test_token_rotates_without_a_restart(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry_of(tmp_path / "ball.ply")])
    old, new = {"authorization": f"Bearer {TOKEN}"}, {"authorization": "Bearer new-token-of-tests-987654"}

    def codes() -> tuple[int, int]:
        return tuple(HTTP.get(agent.url + "/v1/scenes", headers=each).status_code for each in (old, new))  # type: ignore[return-value]

    agent.token_file.write_text(f"new-token-of-tests-987654\n{TOKEN}\n")
    assert codes() == (200, 200)
    agent.token_file.write_text("new-token-of-tests-987654\n")
    assert codes() == (401, 200)
    agent.token_file.write_text("\n")
    assert codes() == (503, 503), "no token is no open door"


def test_bad_asks_are_named(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry_of(tmp_path / "ball.ply")])
    for path, body, status, says in (
        ("nowhere", '{"deadline_s": 1}', 404, "known are ball"),
        ("Bad..Id", '{"deadline_s": 1}', 400, "is not valid"),
        ("ball", '{"deadline_s": -1}', 400, "deadline_s is 0 to"),
        ("ball", '{"deadline_s": 1, "prio": 3}', 400, "unknown field `prio`"),
        ("ball", "x" * 100_000, 400, "malformed"),
    ):
        answer = HTTP.put(f"{agent.url}/v1/scenes/{path}", content=body, headers={"authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == status, body[:40]
        assert says in answer.json()["error"]


def test_urgent_ask_overtakes_and_the_other_is_resumed(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "slow.ply", 20_000)
    make_scene(tmp_path / "quick.ply", 2_000)
    slow, quick = (entry_of(tmp_path / f"{name}.ply") for name in ("slow", "quick"))
    rate = slow.source_bytes / 3  # type: ignore[operator]
    agent = start_agent("node-1", [slow, quick], "--slots", "1", "--fetch-mb-per-s", str(rate / 1e6))
    agent.client.ask("slow", deadline_s=600.0)
    part = agent.layout.fetching / f"{slow.digest}.part" / "source"
    wait_for(lambda: part.exists() and part.stat().st_size > slow.source_bytes / 10)  # type: ignore[operator]
    agent.client.ask("quick", deadline_s=5.0)
    wait_for(lambda: "quick" in agent.stored())
    assert "slow" not in agent.stored(), "the urgent ask waited for the other"
    agent.wait_state("slow", "stored")
    assert agent.count(metrics.AGENT_FETCHES, outcome="paused") == 1
    came = agent.count(metrics.AGENT_FETCHED_BYTES, source="remote")
    both = slow.source_bytes + quick.source_bytes  # type: ignore[operator]
    assert both <= came <= 1.1 * both, "what had come of the slow one was fetched again"


def test_missed_deadline_is_counted_and_says_why(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "slow.ply", 20_000)
    entry = entry_of(tmp_path / "slow.ply")
    agent = start_agent("node-1", [entry], "--fetch-mb-per-s", str(entry.source_bytes / 2 / 1e6))  # type: ignore[operator]
    agent.client.ask("slow", deadline_s=0.3)
    wait_for(lambda: agent.count(metrics.AGENT_DEADLINES, outcome="missed") == 1)
    assert "the deadline passed" in agent.reason("slow")
    agent.wait_state("slow", "stored")
    assert agent.count(metrics.AGENT_DEADLINES, outcome="missed") == 1, "a miss is counted once"
    assert agent.count(metrics.AGENT_DEADLINES, outcome="met") == 0
    assert "deadline missed" in agent.log.read_text()


def test_dropped_ask_stops_and_leaves_nothing(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "slow.ply", 20_000)
    entry = entry_of(tmp_path / "slow.ply")
    agent = start_agent("node-1", [entry], "--fetch-mb-per-s", str(entry.source_bytes / 5 / 1e6))  # type: ignore[operator]
    agent.client.ask("slow", deadline_s=60.0)
    wait_for(lambda: any(ask["done_bytes"] > 0 for ask in agent.client.listing()["asks"]), "no progress is told")
    agent.client.evict("slow")
    wait_for(lambda: agent.count(metrics.AGENT_FETCHES, outcome="dropped") == 1)
    assert agent.stored() == set()
    agent.client.evict("slow")


def test_what_a_reader_holds_is_not_evicted(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    entry = entry_of(tmp_path / "ball.ply")
    agent = start_agent("node-1", [entry])
    pod = SceneStore(agent.layout.root, 100 * MB)
    with pod.opened(entry) as held:
        with pytest.raises(AgentError, match=r"409.*is being read"):
            agent.client.evict("ball")
        assert held.read().count == 800
    agent.client.evict("ball")
    assert agent.stored() == set()


def test_catalogue_is_read_again_and_the_last_good_one_kept(tmp_path: Path, start_agent: StartAgent) -> None:
    for seed, name in enumerate(("one", "two")):
        make_scene(tmp_path / f"{name}.ply", seed=seed)
    agent = start_agent("node-1", [entry_of(tmp_path / "one.ply")])
    save_catalogue(
        Catalogue([entry_of(tmp_path / f"{name}.ply") for name in ("one", "two")]), tmp_path / "catalogue.json"
    )
    assert agent.client.ask("two", 30.0)["id"] == "two"
    (tmp_path / "catalogue.json").write_text('{"version": 1, "scenes": [7]}')
    assert agent.client.ask("one", 30.0)["id"] == "one"
    with pytest.raises(AgentError, match=r"404.*scenes\[0\] is int"):
        agent.client.ask("three", 30.0)


def test_objects_are_served_in_ranges(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "ball.ply")
    raw = (tmp_path / "ball.ply").read_bytes()
    agent = start_agent("node-1", [entry_of(tmp_path / "ball.ply")])
    agent.client.ask("ball", 30.0)
    agent.wait_state("ball", "stored")
    url = f"{agent.url}/v1/objects/{digest_of(tmp_path / 'ball.ply')}"
    token = {"authorization": f"Bearer {TOKEN}"}
    assert HTTP.get(url, headers=token).content == raw
    part = HTTP.get(url, headers={**token, "range": "bytes=100-299"})
    assert (part.status_code, part.headers["content-range"], part.content) == (
        206,
        f"bytes 100-299/{len(raw)}",
        raw[100:300],
    )
    assert HTTP.get(url, headers={**token, "range": f"bytes={len(raw)}-"}).status_code == 416
    for name in ("0" * 64, "..", "%2e%2e%2fscenes", f"{'0' * 64}/..%2f..%2fstore.json"):
        assert HTTP.get(f"{agent.url}/v1/objects/{name}", headers=token).status_code == 404


def test_sigterm_in_the_middle_ends_well_and_the_next_start_resumes(tmp_path: Path, start_agent: StartAgent) -> None:
    make_scene(tmp_path / "slow.ply", 20_000)
    entry = entry_of(tmp_path / "slow.ply")
    agent = start_agent("node-1", [entry], "--fetch-mb-per-s", str(entry.source_bytes / 4 / 1e6))  # type: ignore[operator]
    agent.client.ask("slow", deadline_s=60.0)
    part = agent.layout.fetching / f"{entry.digest}.part" / "source"
    wait_for(lambda: part.exists() and part.stat().st_size > entry.source_bytes / 4)  # type: ignore[operator]
    agent.process.send_signal(signal.SIGTERM)
    began_s = time.monotonic()
    assert agent.process.wait(40) == 0
    assert time.monotonic() - began_s < 10
    had = part.stat().st_size
    again = start_agent("node-1", [entry])
    again.client.ask("slow", deadline_s=60.0)
    again.wait_state("slow", "stored")
    assert again.count(metrics.AGENT_FETCHED_BYTES, source="remote") == entry.source_bytes - had  # type: ignore[operator]
