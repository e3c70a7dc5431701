"""State under events in any order: the table, kept row by row, equals one built from nothing; nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.digest import NodeDigest, Slice
from fleet.mig import MigProfile
from fleet.scene import SceneId
from fleet.snapshot import Gpu, Node, Pod
from scheduler_extender.cluster import Cluster
from scheduler_extender.departed import Departed
from scheduler_extender.fit import FITS
from scheduler_extender.journal import numbers_of
from scheduler_extender.recent_requests import PODS_REMEMBERED, RecentRequests
from tests.scheduler_extender.conftest import GB, digest

ONE_G = MigProfile.parse("1g.10gb")
NODES = ("n1", "n2", "n3")
UIDS = tuple(f"uid-{number}" for number in range(8))


def pod(uid: str, scene: str = "", node: str = "", finished: bool = False) -> Pod:
    scenes = (SceneId(scene),) if scene else ()
    return Pod(
        uid, profiles=(ONE_G,), scenes=scenes, node=node, finished=finished, scene_bytes=dict.fromkeys(scenes, GB)
    )


@st.composite
def digests(draw: st.DrawFn) -> NodeDigest:
    held = dict.fromkeys(draw(st.sets(st.sampled_from(["a", "b", "c"]))), GB)
    holders = draw(st.lists(st.sampled_from(["", "", *UIDS]), min_size=3, max_size=3))
    slices = tuple(Slice("1g.10gb", start, True, uid) for start, uid in enumerate(holders))
    return digest(draw(st.sampled_from(NODES)), held, slices, capacity_bytes=12 * GB, free_bytes=0)


EVENTS = st.one_of(
    st.tuples(st.just("digest"), digests()),
    st.tuples(st.just("bound"), st.sampled_from(UIDS), st.sampled_from(NODES), st.sampled_from(["", "a", "d"])),
    st.tuples(st.just("bound as held"), st.sampled_from(UIDS)),
    st.tuples(st.just("deleted"), st.sampled_from(UIDS)),
    st.tuples(st.just("finished"), st.sampled_from(UIDS), st.sampled_from(NODES)),
    st.tuples(st.just("placed"), st.sampled_from(UIDS), st.sampled_from(["", "a", "d"])),
    st.tuples(st.just("node"), st.sampled_from(NODES)),
    st.tuples(st.just("node gone"), st.sampled_from(NODES)),
    st.tuples(st.just("inventory"), st.sampled_from(NODES), st.sampled_from(UIDS), st.integers(0, 6)),
    st.tuples(st.just("time"), st.floats(0, 20)),
)


def apply(cluster: Cluster, event: tuple[object, ...], now_s: float) -> None:
    match event:
        case "digest", NodeDigest() as said:
            cluster.apply_digest(said.node, said, now_s)
        case "bound", str(uid), str(node), str(scene):
            cluster.set_pod(pod(uid, scene, node), now_s)
        case "bound as held", str(uid):
            held = cluster.reservations.get(uid)
            if held is not None:
                cluster.set_pod(replace(held.pod, node=held.node), now_s)
        case "deleted", str(uid):
            cluster.remove_pod(uid, now_s)
        case "finished", str(uid), str(node):
            cluster.set_pod(pod(uid, "", node, finished=True), now_s)
        case "node", str(node):
            cluster.add_node(node)
        case "node gone", str(node):
            cluster.remove_node(node)
        case "inventory", str(node), str(uid), int(start):
            cuts = (Slice("1g.10gb", start, True, uid),)
            cluster.set_inventory(node, (Gpu(f"GPU-{node}", "H100-80", True, cuts),))
        case "placed", str(uid), str(scene):
            asked = pod(uid, scene)
            cluster.reserve(cluster.decide(asked, NODES, now_s), now_s)
    cluster.expire(now_s)


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_rows_kept_in_step_equal_rows_built_anew(events: list[tuple[object, ...]]) -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    now_s = 0.0
    for event in events:
        now_s += event[1] if event[0] == "time" else 0.1  # type: ignore[operator]
        apply(cluster, event, now_s)
    anew = Cluster(NODES, cluster.prices)
    anew.nodes, anew.pods, anew.reservations = cluster.nodes, cluster.pods, cluster.reservations
    anew._bound, anew._departed, anew._requests = cluster._bound, cluster._departed, cluster._requests
    for node in cluster.nodes.values():
        anew.table.set_digest(node)
    anew._refresh(set(NODES))
    for scene in ("", "a", "d"):
        for uid in ("somebody-new", *UIDS[:2]):
            asked = pod(uid, scene)
            ours, theirs = cluster.decide(asked, NODES, now_s), anew.decide(asked, NODES, now_s)
            assert ours.verdict.tolist() == theirs.verdict.tolist()
            np.testing.assert_allclose(ours.total_s, theirs.total_s)
            assert ours.scores.tolist() == theirs.scores.tolist()


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_no_reservation_outlives_its_time_or_its_pod(events: list[tuple[object, ...]]) -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    now_s = 0.0
    for event in events:
        now_s += event[1] if event[0] == "time" else 0.1  # type: ignore[operator]
        apply(cluster, event, now_s)
        for uid in UIDS:
            known = cluster.pods.get(uid)
            if known is not None and (known.holds or known.finished):
                held = cluster.reservations.get(uid)
                assert held is None or known.finished  # asked for again after it had finished
    cluster.expire(now_s + 30.0)
    assert len(cluster.reservations) == 0


FAULTS: dict[str, list[tuple[object, ...]]] = {
    "killed before it is bound, and nobody says so": [],
    "deleted before it is bound": [("deleted", UIDS[0])],
    "bound elsewhere": [("bound", UIDS[0], NODES[2], "a")],
    "finished unseen": [("finished", UIDS[0], NODES[0])],
    "asked about again by a scheduler that restarted": [("placed", UIDS[0], "a"), ("placed", UIDS[0], "b")],
    "its node goes": [("node gone", NODES[0]), ("node gone", NODES[1]), ("node gone", NODES[2])],
    "the watch breaks and lists another world": [("list", [])],
}


@pytest.mark.parametrize("events", FAULTS.values(), ids=FAULTS)
def test_no_place_is_held_for_nobody_after_the_time_to_live(events: list[tuple[object, ...]]) -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for name in NODES:
        cluster.apply_digest(name, digest(name), 0.0)
    asked = pod(UIDS[0], "a")
    free = [int(cluster.table.profiles[ONE_G].free[row]) for row in cluster.table.rows.values()]
    cluster.reserve(cluster.decide(asked, NODES, 0.0), 0.0)
    assert cluster.reservations_without_pod == 1  # nobody has told us of the pod yet
    for event in events:
        if event[0] == "list":
            cluster.set_pods([], 1.0)
        else:
            apply(cluster, event, 1.0)
    cluster.expire(31.1)
    assert (len(cluster.reservations), cluster.reservations_without_pod) == (0, 0)
    cluster.set_pods([], 32.0)
    for name in NODES:
        cluster.add_node(name)
        cluster.apply_digest(name, digest(name), 33.0)
    assert [int(cluster.table.profiles[ONE_G].free[row]) for row in cluster.table.rows.values()] == free


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b"]), min_size=22, max_size=30), st.randoms(use_true_random=False))
def test_a_burst_never_overcommits(scenes: list[str], random: object) -> None:
    """Whatever the scenes and whichever pods are bound at once, no node gets more pods than it has slices."""
    cluster = Cluster(NODES)
    for name, held in zip(NODES, ({"a": GB}, {"b": GB}, {}), strict=True):
        cluster.apply_digest(name, digest(name, held), 0.0)
    chosen: list[str] = []
    for number, scene in enumerate(scenes):
        asked = pod(f"burst-{number}", scene)
        left = [name for name, verdict in zip(NODES, cluster.fit(asked, NODES), strict=True) if verdict == FITS]
        assert bool(left) == (len(chosen) < 21)
        if not left:
            break
        decision = cluster.decide(asked, left, 1.0)
        cluster.reserve(decision, 1.0)
        chosen.append(decision.winner)
        if random.random() < 0.5:  # type: ignore[attr-defined]
            cluster.set_pod(replace(asked, node=decision.winner), 1.0)
    assert max(chosen.count(name) for name in NODES) == 7


def test_a_winner_elsewhere_frees_the_place_that_was_held() -> None:
    """kube-scheduler adds other plugins' scores and may choose another node than we thought."""
    cluster = Cluster(NODES[:2])
    for name in NODES[:2]:
        cluster.apply_digest(name, digest(name, slices=(Slice("1g.10gb", 0),)), 0.0)
    decision = cluster.decide(pod("uid-1"), NODES[:2], 1.0)
    cluster.reserve(decision, 1.0)
    other = next(name for name in NODES[:2] if name != decision.winner)
    assert cluster.fit(pod("uid-2"), [decision.winner, other]).tolist() != [FITS, FITS]
    cluster.set_pod(pod("uid-1", node=other), 1.1)
    verdicts = dict(zip(NODES[:2], cluster.fit(pod("uid-2"), NODES[:2]).tolist(), strict=True))
    assert verdicts[decision.winner] == FITS
    assert verdicts[other] != FITS


def test_deleted_pods_are_remembered_while_an_exporter_may_name_them_and_no_longer() -> None:
    departed = Departed()
    for number in range(3):
        departed.add(f"old-{number}", "n1", 0.0)
    departed.add("named", "n1", 0.0)
    departed.add("young", "n1", 30.0)
    departed.add("elsewhere", "n2", 0.0)
    cuts = (Slice("1g.10gb", 0, True, "named"), Slice("1g.10gb", 1))
    departed.drop_unnamed(Node("n1", (Gpu("GPU-1", "H100-80", True, cuts),)), 61.0)
    assert (departed.on("n1"), departed.on("n2")) == ({"named", "young"}, {"elsewhere"})
    assert departed.forget("young")
    assert not departed.forget("young")
    departed.forget_node("n1")
    assert (departed.on("n1"), departed.on("n2")) == (set(), {"elsewhere"})


def test_pods_that_come_and_go_where_no_digest_is_leave_nothing() -> None:
    cluster = Cluster(NODES)
    for number in range(200):
        cluster.set_pod(pod(f"batch-{number}", "", "n1" if number % 2 else "nowhere"), float(number))
        cluster.remove_pod(f"batch-{number}", number + 0.5)
    assert len(cluster._departed.on("n1")) < 40
    assert not cluster._departed.on("nowhere")


def test_its_own_reservation_does_not_stand_in_a_pods_way() -> None:
    cluster = Cluster(["n1"])
    cluster.apply_digest("n1", digest("n1", slices=(Slice("1g.10gb", 0),)), 0.0)
    for _ in range(3):
        decision = cluster.decide(pod("uid-1"), ["n1"], 1.0)
        assert decision.winner == "n1"
        cluster.reserve(decision, 1.0)
    assert cluster.decide(pod("uid-2"), ["n1"], 1.0).winner == ""


def test_growth_keeps_what_is_known() -> None:
    cluster = Cluster()
    names = [f"node-{number}" for number in range(200)]
    for number, name in enumerate(names):
        cluster.apply_digest(name, digest(name, {f"scene-{number}": GB}), 0.0)
    for number in (0, 15, 16, 17, 99, 199):
        decision = cluster.decide(pod("uid-1", f"scene-{number}"), names, 1.0)
        assert decision.winner == names[number]


def test_nodes_nobody_configured_take_no_memory() -> None:
    cluster = Cluster(["n1"])
    strangers = [f"stranger-{number}" for number in range(1000)]
    decision = cluster.decide(pod("uid-1"), strangers, 1.0)
    cluster.reserve(decision, 1.0)
    cluster.set_pod(pod("uid-2", "a", strangers[0]), 1.0)
    cluster.remove_pod("uid-2", 1.0)
    assert list(cluster.table.rows) == ["n1"]


def test_the_demand_mix_is_that_of_the_last_pods() -> None:
    cluster = Cluster(["n1"])
    cluster.apply_digest("n1", digest("n1"), 0.0)
    before_s = cluster.decide(pod("new"), ["n1"], 1.0).costs[0].fragmentation_s
    for number in range(500):
        cluster.set_pod(pod(f"old-{number}", node="n1"), 1.0)
        cluster.remove_pod(f"old-{number}", 1.0)
    after_s = cluster.decide(pod("new"), ["n1"], 2.0).costs[0].fragmentation_s
    # Nobody asks for anything but 1g any more, so there is little left to fragment.
    assert after_s < before_s / 4


def test_pods_count_when_they_come_and_once() -> None:
    """Those that find no place, too: a mix without them would keep no place for the next. Others crowd nobody out."""
    cluster = Cluster(["n1"])
    waiting = pod("waiting", "robot")
    for _ in range(3):
        cluster.set_pod(waiting, 1.0)
    assert cluster.demand.scene_share["robot"] == pytest.approx(2 / 3)  # one request of everything is added
    cluster.set_pod(pod("told", node="n1"), 1.0)
    cluster.set_pod(pod("told", "train", "n1"), 1.0)  # its scenes were told later than its slices
    for number in range(PODS_REMEMBERED):
        cluster.set_pod(Pod(f"web-server-{number}", node="n1"), 1.0)
    shares = cluster.demand.scene_share
    assert shares == pytest.approx({"robot": 2 / 5, "train": 2 / 5})


def test_the_mix_does_not_depend_on_who_looks_when() -> None:
    """A replay makes the decisions alone, without the looks of filter and of a scrape between them."""
    watched, left_alone = Cluster(["n1"]), Cluster(["n1"])
    for number in range(270):
        for cluster in (watched, left_alone):
            cluster.set_pod(pod(f"pod-{number}", f"scene-{number % 7}"), 1.0)
        assert watched.demand
    assert watched.demand.scene_share == left_alone.demand.scene_share
    assert watched.demand.role_share == left_alone.demand.role_share


def test_rows_follow_a_list_that_changes_in_place() -> None:
    cluster = Cluster(["n1", "n2"])
    asked = ["n1", "n2", "n3"]
    assert cluster.table.rows_of(asked).tolist() == [1, 2, 0]
    asked.reverse()
    assert cluster.table.rows_of(asked).tolist() == [0, 2, 1]
    cluster.apply_digest("n3", digest("n3"), 0.0)
    assert cluster.table.rows_of(asked).tolist() == [3, 2, 1]


def test_more_names_than_rows_then_more_nodes() -> None:
    """kube-scheduler may ask about a thousand names while a handful of nodes is known, and the rest come after."""
    cluster = Cluster(["node-0"])
    names = [f"node-{number}" for number in range(100)]
    assert len(cluster.fit(Pod("uid-1"), names)) == 100
    for name in names:
        cluster.add_node(name)
    assert len(set(cluster.table.rows_of(names).tolist())) == 100


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENTS, max_size=8), EVENTS)
def test_what_was_foreseen_is_what_would_be_found_now(
    before: list[tuple[object, ...]], event: tuple[object, ...]
) -> None:
    """Whatever happens between filter and prioritize, the prices are those of the state as it is."""
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for earlier in before:
        apply(cluster, earlier, 1.0)
    asked = pod("somebody-new", "a")
    cluster.foresee(asked, list(NODES), 1.0)
    foreseen = cluster.decide(asked, list(NODES), 1.0)
    assert foreseen is cluster.decide(asked, list(NODES), 1.9)
    assert foreseen is not cluster.decide(asked, list(NODES[:2]), 1.0)
    assert foreseen is not cluster.decide(pod("another", "a"), list(NODES), 1.0)
    assert foreseen is not cluster.decide(asked, list(NODES), 2.1)
    apply(cluster, event, 1.0)
    cluster.settle()
    said = cluster.decide(asked, list(NODES), 1.0)
    cluster._foreseen = None
    found = cluster.decide(asked, list(NODES), 1.0)
    assert (said.winner, said.verdict.tolist()) == (found.winner, found.verdict.tolist())
    assert said.total_s.tolist() == found.total_s.tolist()
    assert said.age_s.tolist() == pytest.approx(found.age_s.tolist(), nan_ok=True)


@pytest.mark.parametrize("change", ["confirmed", "capacity type", "forecast", "demand"])
def test_no_change_of_prices_is_missed(change: str) -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for name in NODES:
        cluster.apply_digest(name, digest(name, {"a": GB}), 0.0)
    asked = replace(pod("uid-new"), pool="web", scene_bytes={})
    cluster.foresee(asked, list(NODES), 40.0)
    foreseen = cluster.decide(asked, list(NODES), 40.0)
    match change:
        case "confirmed":
            cluster.confirm_digest("n1", 40.0)
        case "capacity type":
            cluster.set_capacity_type("n1", "spot")
        case "forecast":
            cluster.set_forecast("web", {SceneId("a"): 1.0})
        case "demand":
            cluster.set_pod(pod("waits", "a"), 40.0)
    assert cluster.decide(asked, list(NODES), 40.0) is not foreseen


def test_a_fresh_digest_that_is_confirmed_leaves_what_was_foreseen() -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for name in NODES:
        cluster.apply_digest(name, digest(name, {"a": GB}), 0.0)
    asked = pod("uid-new", "a")
    cluster.foresee(asked, list(NODES), 4.0)
    foreseen = cluster.decide(asked, list(NODES), 4.0)
    cluster.confirm_digest("n1", 4.0)
    assert cluster.decide(asked, list(NODES), 4.1) is foreseen
    assert foreseen.age_s.tolist()[NODES.index("n1")] == 4.0
    cluster.settle()
    assert cluster.decide(asked, list(NODES), 4.1).age_s.tolist()[NODES.index("n1")] == pytest.approx(0.1)


def test_a_digest_that_comes_while_prices_wait_is_taken_after_them() -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for name in NODES:
        cluster.apply_digest(name, digest(name), 0.0)
    asked = pod("uid-new", "a")
    cluster.foresee(asked, list(NODES), 4.0)
    foreseen = cluster.decide(asked, list(NODES), 4.0)
    cluster.apply_digest("n2", digest("n2", {"a": GB}), 4.0)
    cluster.expire(4.1)
    assert cluster.decide(asked, list(NODES), 4.1) is foreseen
    cluster.reserve(foreseen, 4.1)
    cluster.settle()
    assert cluster.decide(pod("uid-next", "a"), list(NODES), 4.2).winner == "n2"


def test_a_digest_waits_for_prices_that_nobody_asks_for_a_second_at_most() -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    cluster.foresee(pod("uid-new", "a"), list(NODES), 4.0)
    cluster.apply_digest("n2", digest("n2", {"a": GB}), 4.0)
    assert cluster.nodes["n2"].seen_s is None
    cluster.expire(5.1)
    assert cluster.nodes["n2"].seen_s == 4.0


def test_what_is_foreseen_after_a_verdict_is_what_is_found_without() -> None:
    cluster = Cluster(NODES, time_to_live_s=30.0)
    for name in NODES:
        cluster.apply_digest(name, digest(name, {"a": GB}), 0.0)
    asked = pod("uid-new", "a")
    fitting = [name for name, fit in zip(NODES, cluster.fit(asked, NODES).tolist(), strict=True) if fit == FITS]
    cluster.foresee(asked, fitting, 4.0)
    foreseen = cluster.decide(asked, fitting, 4.0)
    cluster._foreseen = None
    found = cluster.decide(asked, fitting, 4.0)
    assert foreseen is not found
    assert numbers_of(foreseen) == numbers_of(found)


def test_a_snapshot_is_kept_as_it_was() -> None:
    cluster = Cluster(NODES)
    before = cluster.snapshot
    cluster.set_pod(pod("uid-new", "a"), 1.0)
    cluster.remove_node("n1")
    assert (set(before.pods), set(before.nodes)) == (set(), set(NODES))
    assert (set(cluster.snapshot.pods), set(cluster.snapshot.nodes)) == ({"uid-new"}, set(NODES) - {"n1"})


def test_stranded_slices_by_hand() -> None:
    """A 1g at 0 takes the places of 4g and 7g, one of 3g and one of 2g; 1g and 2g have no use for slice 7."""
    cluster = Cluster(NODES)
    taken = tuple(Slice("1g.10gb", start, True, "" if start else "somebody") for start in range(7))
    cluster.apply_digest("n1", digest("n1", slices=taken), 0.0)
    # By roles of one request each, weight size squared: 1g 1, 2g 4, 3g 16, 4g 16, 7g 64; free and of no use to each.
    useless = {"1g": (1, 1), "2g": (4, 1 + 2), "3g": (16, 3), "4g": (16, 7), "7g": (64, 7)}
    expected = sum(weight * slices for weight, slices in useless.values()) / sum(
        weight for weight, _ in useless.values()
    )
    assert cluster.stranded_slices == pytest.approx(expected)
    cluster.apply_digest("n2", digest("n2", slices=taken), 0.0)
    assert cluster.stranded_slices == pytest.approx(2 * expected)
    cluster.remove_node("n1")
    assert cluster.stranded_slices == pytest.approx(expected)


def test_the_mix_follows_from_the_pods_whoever_reads_it_when() -> None:
    """Metrics and prices made ahead read it at times that no journal tells."""
    read, unread = RecentRequests(), RecentRequests()
    for number in range(200):
        asked = pod(f"uid-{number}", "abcdef"[number * number % 6])
        assert read.see(asked, None) == unread.see(asked, None)
        assert read.demand.scene_share
    assert read.demand.scene_share == unread.demand.scene_share
