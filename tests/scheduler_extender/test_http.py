"""The verbs over real HTTP, asked as kube-scheduler asks."""

from __future__ import annotations

import json
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fleet.digest import FetchingScene, PodDigest, ResidentScene, Slice
from fleet.metrics import CATALOGUE, EXTENDER_CERTIFICATE_NOT_AFTER
from scheduler_extender.state import QUIET_POLLS
from tests.scheduler_extender.conftest import GB, Rig, digest, pod

Start = Callable[..., Rig]
Golden = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("mode", ["nodecachecapable-true", "nodecachecapable-false"])
def test_golden_filter(rig: Start, golden: Golden, mode: str) -> None:
    body = golden(f"filter-{mode}")
    answer = rig().client.post("/filter", json=body).json()
    assert set(answer) == {"Nodes", "NodeNames", "FailedNodes", "FailedAndUnresolvableNodes", "Error"}
    assert (answer["FailedNodes"], answer["FailedAndUnresolvableNodes"], answer["Error"]) == ({}, {}, "")
    # Nothing is known of these nodes, so all come back, in the shape in which they were sent.
    assert answer["NodeNames"] == body["NodeNames"]
    if body["Nodes"] is None:
        assert answer["Nodes"] is None
    else:
        assert answer["Nodes"]["items"] == body["Nodes"]["items"]


@pytest.mark.parametrize("mode", ["nodecachecapable-true", "nodecachecapable-false"])
def test_golden_filter_on_nodes_with_digests(rig: Start, golden: Golden, mode: str) -> None:
    body = golden(f"filter-{mode}")
    names = body["NodeNames"] or [item["metadata"]["name"] for item in body["Nodes"]["items"]]
    full = digest(names[0], slices=(Slice("1g.10gb", 0, True, "someone"),))
    started = rig(**{names[0]: full, names[1]: digest(names[1])})
    answer = started.client.post("/filter", json=body).json()
    assert list(answer["FailedNodes"]) == [names[0]]
    left = answer["NodeNames"] or [item["metadata"]["name"] for item in answer["Nodes"]["items"]]
    assert left == [names[1]]


@pytest.mark.parametrize("mode", ["nodecachecapable-true", "nodecachecapable-false"])
def test_golden_prioritize(rig: Start, golden: Golden, mode: str) -> None:
    body = golden(f"prioritize-{mode}")
    names = body["NodeNames"] or [item["metadata"]["name"] for item in body["Nodes"]["items"]]
    answer = rig().client.post("/prioritize", json=body).json()
    assert [entry["Host"] for entry in answer] == names
    assert all(set(entry) == {"Host", "Score"} and entry["Score"] in range(11) for entry in answer)


@pytest.mark.parametrize("keys", [("Pod", "NodeNames"), ("pod", "nodenames"), ("pod", "nodeNames")])
def test_keys_in_either_case(rig: Start, keys: tuple[str, str]) -> None:
    started = rig(near=digest("near", {"scene-a": GB}), far=digest("far"))
    body = {keys[0]: pod("uid-1", "scene-a"), keys[1]: ["far", "near"], "Unknown": [1, {}]}
    scores = {e["Host"]: e["Score"] for e in started.client.post("/prioritize", json=body).json()}
    assert scores["near"] == 10 > scores["far"]
    assert started.client.post("/filter", json=body).json()["NodeNames"] == ["far", "near"]


def test_no_nodes(rig: Start) -> None:
    started = rig(near=digest("near"))
    assert started.filter(pod("uid-1"), [])["NodeNames"] == []
    assert started.prioritize(pod("uid-1"), []) == {}
    bare = started.client.post("/filter", json={"Pod": pod("uid-1"), "Nodes": None, "NodeNames": None}).json()
    assert (bare["NodeNames"], bare["Error"]) == ([], "")


def test_reasons_by_kind(rig: Start) -> None:
    started = rig(
        full=digest("full", slices=(Slice("1g.10gb", 0, True, "someone"),)),
        other=digest("other", slices=(Slice("7g.80gb", 0),)),
        sick=digest("sick", slices=(Slice("1g.10gb", 0, False),)),
        small=digest("small", capacity_bytes=1000),
        good=digest("good", {"scene-a": GB}),
        dead=None,
    )
    names = ["full", "other", "sick", "small", "good", "dead", "stranger"]
    answer = started.filter(pod("uid-1", "scene-a"), names)
    assert answer["NodeNames"] == ["good", "dead", "stranger"]
    assert "no_free_slice" in answer["FailedNodes"]["full"]
    reasons = answer["FailedAndUnresolvableNodes"]
    assert set(reasons) == {"other", "sick", "small"}
    assert "no_such_profile" in reasons["other"]
    assert "slices_unhealthy" in reasons["sick"]
    assert "scenes_exceed_cache" in reasons["small"]
    assert started.metric('splatfleet_extender_node_rejections_total{reason="no_free_slice"}') == 1


def test_filter_changes_nothing(rig: Start) -> None:
    started = rig(one=digest("one", slices=(Slice("1g.10gb", 0),)))
    answers = [started.filter(pod(f"uid-{number}"), ["one"]) for number in range(5)]
    assert all(answer == answers[0] for answer in answers)
    assert answers[0]["NodeNames"] == ["one"]
    assert started.metric("splatfleet_extender_reservations ") == 0


def test_the_node_with_the_scene_wins_and_says_why(rig: Start) -> None:
    started = rig(far=digest("far"), near=digest("near", {"scene-a": 2 * GB}))
    before = started.explain(pod("uid-1", "scene-a"), ["far", "near"])
    scores = started.prioritize(pod("uid-1", "scene-a"), ["far", "near"])
    after = started.explain(pod("uid-1", "scene-a"), ["far", "near"])
    assert scores["near"] == 10 > scores["far"]
    assert before["winner"] == after["winner"] == after["reserved"] == "near"
    assert before["reserved"] is None
    for explained in (before, after):
        assert {line["node"]: line["score"] for line in explained["nodes"]} == scores
    near, far = after["by_node"]["near"], after["by_node"]["far"]
    assert (near["tier"], far["tier"]) == ("disk", "remote")
    assert near["time_to_ready_s"] == pytest.approx(2.0, rel=1e-3)  # 2 GB at 1 GB/s
    assert far["time_to_ready_s"] == pytest.approx(22.0, rel=1e-3)  # and 20 s to fetch them
    assert [before["by_node"][n]["total_s"] for n in ("far", "near")] == [far["total_s"], near["total_s"]]
    remembered = started.client.get("/explain", params={"uid": "uid-1"}).json()
    assert remembered["winner"] == "near"
    assert started.client.get("/explain", params={"uid": "nobody"}).status_code == 404


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_a_number_that_json_does_not_know_is_told_as_null(rig: Start) -> None:
    started = rig(one=digest("one", {"scene-a": GB}), two=digest("two", {"scene-b": 99 * GB}))
    cluster = started.extender.cluster
    cluster.prices = replace(cluster.prices, eviction_weight=math.inf)
    posted = started.explain(pod("uid-1", "scene-a"), ["one", "two"])
    assert posted["prices"]["eviction_weight"] is None
    assert posted["by_node"]["two"]["eviction_s"] is None
    started.prioritize(pod("uid-1", "scene-a"), ["one", "two"])
    for asked in ({"uid": "uid-1"}, {"pod": "default/uid-1"}):
        reply = started.client.get("/explain", params=asked)
        assert reply.status_code == 200
        assert reply.json()["prices"]["eviction_weight"] is None


def test_tiers_in_order(rig: Start) -> None:
    size = 2 * GB
    resident = PodDigest("other", "pool-1", 10 * GB, (ResidentScene("scene-a", 3 * GB),))
    on_disk = digest("memory", {"scene-a": size})
    memory = type(on_disk)(on_disk.node, 1, 1000.0, on_disk.scene_cache, on_disk.gpus, (resident,))
    started = rig(
        remote=digest("remote"),
        busy=digest("busy", fetching=(FetchingScene("other-scene", 0, size),)),
        coming=digest("coming", fetching=(FetchingScene("scene-a", size // 2, size),)),
        disk=digest("disk", {"scene-a": size}),
        memory=memory,
    )
    explained = started.explain(pod("uid-1", "scene-a"), ["remote", "busy", "coming", "disk", "memory"])
    by_cost = sorted(explained["nodes"], key=lambda line: line["total_s"])
    assert [line["node"] for line in by_cost] == ["memory", "disk", "coming", "remote", "busy"]
    assert explained["by_node"]["coming"]["time_to_ready_s"] == pytest.approx(10 + 2, rel=1e-3)
    assert explained["by_node"]["busy"]["time_to_ready_s"] == pytest.approx(20 + 20 + 2, rel=1e-3)
    assert [line["score"] for line in by_cost] == sorted({line["score"] for line in by_cost}, reverse=True)


def test_a_burst_does_not_overcommit(rig: Start) -> None:
    """20 pods one after another on 3 nodes of 7 slices, the digests silent about all of them."""
    started = rig(one=digest("one", {"scene-a": GB}), two=digest("two"), three=digest("three"))
    names = ["one", "two", "three"]
    chosen = []
    for number in range(20):
        asked = pod(f"uid-{number}", "scene-a")
        left = started.filter(asked, names)["NodeNames"]
        assert left
        scores = started.prioritize(asked, left)
        best = max(scores.values())
        chosen.append(next(name for name in left if scores[name] == best))
    assert max(chosen.count(name) for name in names) == 7
    assert chosen[:7] == ["one"] * 7
    assert started.metric("splatfleet_extender_reservations ") == 20
    assert started.filter(pod("uid-20"), names)["NodeNames"] != []
    started.prioritize(pod("uid-20"), names)
    full = started.filter(pod("uid-21"), names)
    assert (full["NodeNames"], set(full["FailedNodes"])) == ([], set(names))


def test_prioritize_without_filter_does_not_overcommit_either(rig: Start) -> None:
    started = rig(one=digest("one", {"scene-a": GB}), two=digest("two"))
    winners = []
    for number in range(14):
        scores = started.prioritize(pod(f"uid-{number}", "scene-a"), ["one", "two"])
        winners.append(max(scores, key=lambda name: scores[name]))
    assert (winners.count("one"), winners.count("two")) == (7, 7)


def test_asking_twice_reserves_once(rig: Start) -> None:
    started = rig(one=digest("one"), two=digest("two"))
    first = started.prioritize(pod("uid-1"), ["one", "two"])
    assert all(started.prioritize(pod("uid-1"), ["one", "two"]) == first for _ in range(5))
    assert started.metric("splatfleet_extender_reservations ") == 1


def test_reservations_end_with_their_pod_or_their_time(rig: Start) -> None:
    started = rig(one=digest("one"), two=digest("two"))
    for uid in ("bound", "elsewhere", "deleted", "finished", "forgotten"):
        started.prioritize(pod(uid), ["one", "two"])
    assert started.metric("splatfleet_extender_reservations ") == 5
    reserved = started.extender.cluster.reservations.get("elsewhere")
    assert reserved is not None
    started.event("MODIFIED", pod("bound", node="one"))
    started.event("MODIFIED", pod("elsewhere", node="two" if reserved.node == "one" else "one"))
    started.event("DELETED", pod("deleted"))
    started.event("MODIFIED", pod("finished", node="one", phase="Failed"))
    assert started.metric("splatfleet_extender_reservations ") == 1
    assert started.metric("splatfleet_extender_reservations_expired_total ") == 0
    started.clock.ahead_s += 31
    assert started.metric("splatfleet_extender_reservations ") == 0
    assert started.metric("splatfleet_extender_reservations_expired_total ") == 1


def test_a_bound_pod_counts_without_prioritize(rig: Start) -> None:
    started = rig(one=digest("one", slices=(Slice("1g.10gb", 0),)))
    started.event("ADDED", pod("uid-1", node="one"))
    assert list(started.filter(pod("uid-2"), ["one"])["FailedNodes"]) == ["one"]
    # The digest learns of it: still one slice taken, not two.
    started.exporters["one"].digest = digest(
        "one", slices=(Slice("1g.10gb", 0, True, "uid-1"), Slice("1g.10gb", 1)), generation=2
    )
    started.until(lambda: started.filter(pod("uid-2"), ["one"])["NodeNames"] == ["one"])
    # It is deleted: its slice is free, although the digest still names it.
    started.prioritize(pod("uid-2"), ["one"])
    assert list(started.filter(pod("uid-3"), ["one"])["FailedNodes"]) == ["one"]
    started.event("DELETED", pod("uid-1", node="one"))
    assert started.filter(pod("uid-3"), ["one"])["NodeNames"] == ["one"]


def test_pods_on_their_way_count_as_downloads(rig: Start) -> None:
    started = rig(one=digest("one", {"scene-b": 4 * GB}), two=digest("two"))
    started.event("ADDED", pod("uid-1", "scene-b", node="two"))
    lines = started.explain(pod("uid-2", "scene-b"), ["one", "two"])["by_node"]
    assert (lines["one"]["tier"], lines["two"]["tier"]) == ("disk", "fetching")
    assert started.explain(pod("uid-3", "scene-c"), ["two"])["by_node"]["two"]["time_to_ready_s"] > 40
    started.event("MODIFIED", pod("uid-1", "scene-b", node="two", phase="Running"))
    assert started.explain(pod("uid-2", "scene-b"), ["two"])["by_node"]["two"]["tier"] == "remote"


def test_placements_are_counted_by_tier_once(rig: Start) -> None:
    started = rig(one=digest("one", {"scene-a": GB}))
    started.event("ADDED", pod("uid-1", "scene-a"))
    started.event("MODIFIED", pod("uid-1", "scene-a", node="one"))
    started.event("MODIFIED", pod("uid-1", "scene-a", node="one", phase="Running"))
    started.event("ADDED", pod("uid-2", "scene-x", node="one"))
    started.event("ADDED", pod("uid-3", node="one"))
    placed = {
        tier: started.metric(f'splatfleet_extender_placements_total{{tier="{tier}"}}')
        for tier in ("disk", "remote", "none")
    }
    assert placed == {"disk": 1, "remote": 1, "none": 1}


def test_a_list_replaces_all_pods(rig: Start) -> None:
    started = rig(one=digest("one", slices=(Slice("1g.10gb", 0), Slice("1g.10gb", 1))))
    started.event("ADDED", pod("gone", node="one"))
    started.event("ADDED", pod("stays", node="one"))
    assert started.filter(pod("new"), ["one"])["NodeNames"] == []
    listed = started.client.post("/v1/pod-events", json={"kind": "PodList", "items": [pod("stays", node="one")]})
    assert listed.status_code == 200
    assert started.filter(pod("new"), ["one"])["NodeNames"] == ["one"]


def test_events_one_a_line(rig: Start) -> None:
    started = rig(one=digest("one", slices=(Slice("1g.10gb", 0),)))
    lines = [{"type": "ADDED", "pod": pod("uid-1")}, {"type": "BOOKMARK", "object": {"kind": "Pod"}}]
    lines.append({"type": "MODIFIED", "object": pod("uid-1", node="one")})
    body = "\n".join(json.dumps(line) for line in lines)
    assert started.client.post("/v1/pod-events", content=body).json() == {"events": 2}
    assert started.filter(pod("uid-2"), ["one"])["NodeNames"] == []


BAD_EVENTS = [
    (b"", "empty"),
    (b"{", "not a pod event"),
    (b'{"type": "ADDED"}', "neither object nor pod"),
    (b'{"type": "EXPLODED", "object": {"metadata": {"uid": "a"}}}', "EXPLODED"),
    (b'{"type": "ADDED", "object": {"metadata": {"name": "a"}}}', "metadata.uid"),
]


def test_bad_events_are_refused(rig: Start) -> None:
    started = rig()
    for body, message in BAD_EVENTS:
        reply = started.client.post("/v1/pod-events", content=body)
        assert reply.status_code == 400, body
        assert message in reply.json()["error"]


NAMES = b'"NodeNames": ["one", "two"]'


READABLE_AND_BAD = [
    (b'{"Pod": 5, ' + NAMES + b"}", "fail_open"),
    (b'{"Pod": null, ' + NAMES + b"}", "fail_open"),
    (b'{"Pod": {"metadata": {"labels": []}}, ' + NAMES + b"}", "fail_open"),
    (b'{"Pod": {}, "Nodes": 7, ' + NAMES + b"}", "fail_open"),
    (b'{"Pod": {}, ' + NAMES + b"}", "ok"),
    (b'{"Pod": {"metadata": {"annotations": {"splatfleet.io/scenes": "../etc"}}}, ' + NAMES + b"}", "ok"),
    (b'{"Pod": {"metadata": {"annotations": {"splatfleet.io/scene-bytes": "a=-1,b,=2"}}}, ' + NAMES + b"}", "ok"),
    (
        b'{"Pod": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/mig-banana": "1"}}}]}}, '
        + NAMES
        + b"}",
        "ok",
    ),
    (
        b'{"Pod": {"spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": "-1"}}}]}}, ' + NAMES + b"}",
        "ok",
    ),
]


def test_bad_bodies_fail_open(rig: Start) -> None:
    started = rig(one=digest("one"), two=digest("two"))
    for body, outcome in READABLE_AND_BAD:
        line_start = f'splatfleet_extender_requests_total{{outcome="{outcome}"'
        before = started.metric(line_start)
        answer = started.client.post("/filter", content=body)
        assert answer.status_code == 200, body
        assert (answer.json()["NodeNames"], answer.json()["Error"]) == (["one", "two"], ""), body
        assert started.client.post("/prioritize", content=body).status_code == 200, body
        assert started.metric(line_start) == before + 2, body


DEEP = b'{"Pod": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b", " + NAMES + b"}"


UNREADABLE = [b"", b"nonsense", b"[]", b'"x"', b'{"Pod": {}, "NodeNames": 5}', b"\xff\xfe", b"[" * 9000, DEEP]


def test_bodies_without_names_are_refused_in_words(rig: Start) -> None:
    started = rig()
    for body in UNREADABLE:
        answer = started.client.post("/filter", content=body)
        assert answer.status_code == 200, body
        assert "ExtenderArgs" in answer.json()["Error"], body
        assert started.client.post("/prioritize", content=body).json() == [], body
    assert started.metric('splatfleet_extender_requests_total{outcome="bad_request"') == 2 * len(UNREADABLE)


def test_a_failure_of_ours_fails_open(rig: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    started = rig(one=digest("one"))
    monkeypatch.setattr(started.extender.cluster, "table", None)
    assert started.filter(pod("uid-1"), ["one"])["NodeNames"] == ["one"]
    assert started.prioritize(pod("uid-1"), ["one"]) == {}
    assert started.extender.metrics.requests.labels("filter", "fail_open")._value.get() == 1


def test_a_body_over_the_cap_says_what_to_set(rig: Start) -> None:
    started = rig(most_body_bytes=1000)
    answer = started.filter(pod("uid-1"), ["n" * 50] * 100)
    assert "nodeCacheCapable" in answer["Error"]
    assert started.client.get("/-/healthy").status_code == 200


def test_a_slow_sender_is_cut_and_holds_nobody_up(rig: Start) -> None:
    started = rig(one=digest("one"))
    host, port = started.client.base_url.host, started.client.base_url.port
    assert port is not None
    with socket.create_connection((host, port), timeout=10) as slow:
        slow.sendall(b"POST /filter HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert started.filter(pod("uid-1"), ["one"])["NodeNames"] == ["one"]
        began_s = time.monotonic()
        answer = b""
        while chunk := slow.recv(4096):
            answer += chunk
        assert b"did not arrive" in answer
        assert time.monotonic() - began_s < 8


def test_stale_digests_lose_their_say(rig: Start) -> None:
    """Fresh: the node with the scene wins. Old: it is a node like any other. Never an error."""
    started = rig(near=digest("near", {"scene-a": 2 * GB}), far=digest("far"), dead=None)
    names = ["near", "far", "dead"]
    for exporter in started.exporters.values():
        exporter.fault = lambda handler: handler.send_error(500)
    time.sleep(0.3)
    costs = []
    for ahead_s in (0, 40, 100, 1000):
        started.clock.ahead_s = ahead_s
        lines = started.explain(pod("uid-1", "scene-a"), names)["by_node"]
        costs.append({name: lines[name]["total_s"] for name in names})
    gaps = [cost["far"] - cost["near"] for cost in costs]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3] == 0
    assert costs[3]["near"] == costs[3]["far"] == costs[3]["dead"]
    assert costs[0]["dead"] == pytest.approx(costs[0]["far"], abs=0.7)  # cold, not impossible
    assert started.filter(pod("uid-1", "scene-a"), names)["NodeNames"] == names
    assert len(set(started.prioritize(pod("uid-1", "scene-a"), names).values())) == 1


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "3")
    handler.end_headers()
    handler.wfile.write(b"{]}")


def half(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"{")
    handler.close_connection = True


def newer(handler: BaseHTTPRequestHandler) -> None:
    body = b'{"version": 99, "node": "one", "generation": 1, "started_at_s": 1, "scene_cache": {"capacity_bytes": 1,'
    body += b' "free_bytes": 1, "fetch_bytes_per_s": 1, "read_bytes_per_s": 1}}'
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.mark.parametrize("fault", [garbage, half, newer])
def test_a_bad_digest_is_no_digest(rig: Start, fault: Callable[[BaseHTTPRequestHandler], None]) -> None:
    started = rig(one=digest("one", {"scene-a": GB}))
    started.exporters["one"].fault = fault
    time.sleep(0.4)
    assert started.explain(pod("uid-1", "scene-a"), ["one"])["by_node"]["one"]["tier"] == "disk"
    age_s = started.metric('splatfleet_extender_node_digest_age_seconds{node="one"}')
    assert age_s > 0.25
    started.exporters["one"].fault = None
    started.until(lambda: started.metric('splatfleet_extender_node_digest_age_seconds{node="one"}') < 0.25)


def test_unchanged_digests_cost_a_304_and_stay_fresh(rig: Start) -> None:
    started = rig(one=digest("one"))
    started.until(lambda: started.exporters["one"].answers.count(304) >= 3)
    assert started.exporters["one"].answers.count(200) == 1
    assert started.metric('splatfleet_extender_node_digest_age_seconds{node="one"}') < 1


def test_a_quiet_node_is_asked_half_as_often_until_it_moves(rig: Start) -> None:
    poll_s = 0.2
    started = rig(poll_s=poll_s, n=digest("n", {"moss": GB}))
    exporter = started.exporters["n"]
    started.until(lambda: len(exporter.asked_s) >= QUIET_POLLS + 5)
    gaps_s = np.diff(exporter.asked_s)
    assert np.median(gaps_s[1 : QUIET_POLLS - 1]) < 1.5 * poll_s < np.median(gaps_s[QUIET_POLLS + 1 :])
    exporter.digest = digest("n", {"moss": GB, "fern": GB}, generation=2)
    quiet = len(exporter.asked_s)
    started.until(lambda: len(exporter.asked_s) >= quiet + 6)
    assert np.median(np.diff(exporter.asked_s[quiet + 1 :])) < 1.5 * poll_s


def test_metrics_are_those_of_the_catalogue(rig: Start) -> None:
    started = rig(one=digest("one"))
    started.filter(pod("uid-1"), ["one"])
    families = list(text_string_to_metric_families(started.client.get("/metrics").text))
    ours = {metric.name.removesuffix("_total") for name, metric in CATALOGUE.items() if "_extender_" in name}
    # The certificate's end is said where there is a certificate.
    assert {family.name for family in families} == ours - {EXTENDER_CERTIFICATE_NOT_AFTER.name}
    seen = {sample.labels.get("verb") for family in families for sample in family.samples}
    assert "filter" in seen


def test_ready_once_every_digest_was_tried(rig: Start) -> None:
    """Not before the slowest exporter has answered, and whatever it answered."""
    go_on = threading.Event()

    def late(handler: BaseHTTPRequestHandler) -> None:
        go_on.wait(5)
        handler.send_error(503)

    started = rig(wait=False, fault=late, poll_timeout_s=10.0, one=digest("one"))
    reply = started.client.get("/-/ready")
    assert (reply.status_code, reply.json()) == (503, {"ready": False, "waiting_for": ["one"]})
    assert started.client.get("/-/healthy").status_code == 200
    go_on.set()
    started.until(lambda: started.client.get("/-/ready").status_code == 200)


def test_what_comes_after_the_answer_does_not_delay_it(rig: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log line of a decision is written once kube-scheduler has the scores, however long it takes."""
    started = rig(one=digest("one"), two=digest("two"))
    written: list[float] = []

    def slowly(*_: object) -> None:
        time.sleep(0.5)
        written.append(time.monotonic())

    monkeypatch.setattr(type(started.extender), "_log", slowly)
    started.prioritize(pod("uid-1"), ["one", "two"])
    answered_s = time.monotonic()
    started.until(lambda: bool(written))
    assert answered_s < written[0]
