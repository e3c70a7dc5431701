"""What the extender knows and how a call changes it: snapshot, reservations, demand, and their table. No clock, no I/O.

Whoever calls from one thread never meets half a change: each method leaves the table in step with the snapshot.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fleet.digest import NodeDigest
from fleet.scene import SceneId
from fleet.snapshot import Gpu, Node, Pod, Sharing, Snapshot
from scheduler_extender.decision import Bound, Decision
from scheduler_extender.demand import Demand
from scheduler_extender.departed import Departed
from scheduler_extender.fit import FITS, REASONS, Reason, fits
from scheduler_extender.names import kept
from scheduler_extender.node_gpus import NodeGpus
from scheduler_extender.node_table import UNKNOWN_ROW, NodeTable
from scheduler_extender.placement import NOTHING_EXPECTED, Basis, cost_s, expected_shares
from scheduler_extender.prices import Prices
from scheduler_extender.recent_requests import RecentRequests
from scheduler_extender.reservations import Reservation, Reservations
from scheduler_extender.scene_table import Tier
from scheduler_extender.scores import scores

FORESEEN_FOR_S = 1.0


class Cluster:
    """The state behind the verbs; `configured` nodes are known from the start."""

    def __init__(
        self, configured: Sequence[str] = (), prices: Prices | None = None, time_to_live_s: float = 30.0
    ) -> None:
        self.prices = prices or Prices()
        self.nodes = {name: Node(name) for name in configured}  # read here, changed by the methods alone
        self.pods: dict[str, Pod] = {}  # by UID
        self.reservations = Reservations(time_to_live_s)
        self.table = NodeTable()
        for name in configured:
            self.table.row(name)
        self._bound: dict[str, dict[str, Pod]] = {}  # node -> uid -> pod that holds a place there
        self._departed = Departed()
        self._requests = RecentRequests()
        self._expected: dict[str, dict[SceneId, float]] = {}  # pool -> scene -> share of its forecast demand
        self._unsettled: set[str] = set()  # nodes whose rows lag behind a reservation
        self._gpus = NodeGpus()
        self._sharing: dict[str, Sharing] = {}
        self._freed: set[str] = set()  # nodes where something changed since `take_freed`
        self._changes = 0  # of anything that a price follows from
        self._foreseen: tuple[int, Decision, Sequence[str]] | None = None  # and the names that will be asked about
        self._put_off: deque[tuple[str, NodeDigest | None, float]] = deque()  # node, its digest if that is new, when
        self._taking = False
        self._fit: tuple[int, Pod] | None = None  # for whom the last verdict was, and of which state

    def apply_digest(self, name: str, digest: NodeDigest, now_s: float) -> None:
        """Take a node's new digest; where prices wait to be asked for, right after them."""
        self._put_off.append((name, digest, now_s))
        if self._awaited(now_s) is None:
            self.settle()

    def _take_digest(self, name: str, digest: NodeDigest, now_s: float) -> None:
        node = Node.from_digest(name, digest, now_s)
        self._departed.drop_unnamed(node, now_s)
        self._gpus.seen[name] = node.gpus
        self._set_node(replace(node, gpus=self._gpus.of(name), sharing=self._sharing.get(name)))

    def add_node(self, name: str) -> None:
        """A node came that may have no digest yet; one that is known stays as it is."""
        if name not in self.nodes:
            self._set_node(Node(name, self._gpus.of(name), sharing=self._sharing.get(name)))

    def remove_node(self, name: str) -> None:
        """A node is gone, and whatever it held; pods that were bound to it go by events of their own."""
        if name not in self.nodes:
            return
        self._refresh(self.reservations.release_node(name))
        self._set_node(Node(name))
        self.table.set_claims(Node(name), (), frozenset())
        self._departed.forget_node(name)
        del self.nodes[name]
        self.table.drop(name)
        self._changes += 1
        self._gpus.seen.pop(name, None)
        self._sharing.pop(name, None)
        self._freed.discard(name)

    def set_inventory(self, name: str, gpus: tuple[Gpu, ...]) -> None:
        """Take a node's GPUs and who holds their slices, as the API server knows them.

        A digest that names GPUs wins on what exists and on its health: it saw them.
        """
        self._gpus.inventory[name] = gpus
        node = self.nodes.get(name)
        if node is not None:
            self._set_node(replace(node, gpus=self._gpus.of(name)))

    def set_sharing(self, name: str, sharing: Sharing | None) -> None:
        """Take how a node's whole GPUs are shared, as its labels say; None where they are not."""
        if sharing is None:
            self._sharing.pop(name, None)
        else:
            self._sharing[name] = sharing
        node = self.nodes.get(name)
        if node is not None and node.sharing != sharing:
            self._set_node(replace(node, sharing=sharing))

    def take_freed(self) -> set[str]:
        """The nodes where something changed since this was asked last, so that a pod may fit now that did not."""
        freed, self._freed = self._freed, set()
        return freed

    def _set_node(self, node: Node) -> None:
        self.nodes[node.name] = node
        self.table.set_digest(node)
        self._change({node.name})

    def confirm_digest(self, name: str, now_s: float) -> None:
        """The node's digest was asked for again and had not changed."""
        fresh = now_s - self.table.seen_s[self.table.row(name)] <= self.prices.fresh_s
        self._put_off.append((name, None, now_s))
        if not fresh or self._awaited(now_s) is None:
            self.settle()

    def _confirm(self, name: str, seen_s: float) -> None:
        self._departed.drop_unnamed(self.nodes[name], seen_s)
        self.table.seen_s[self.table.row(name)] = seen_s
        self._changes += 1

    def set_pod(self, pod: Pod, now_s: float) -> Bound | None:
        """A pod came or changed; the answer is set when it is seen on its node for the first time."""
        if pod.finished:
            self._forget(pod.uid, now_s)
            self.pods[pod.uid] = pod
            return None
        before = self.pods.get(pod.uid)
        self.pods[pod.uid] = pod
        self._changes += self._requests.see(pod, before)
        if not pod.holds:
            return None
        self.settle()
        reserved = self.reservations.get(pod.uid)
        changed = self.reservations.release(pod.uid) | {pod.node}
        as_reserved = self._as_reserved(pod, reserved)
        bound = None
        if before is None or not before.holds:
            tier = self._worst_tier(pod)
            if tier == Tier.FETCHING and changed == {pod.node}:
                # Its own scenes may look as if they were on the way.
                self._refresh(changed)
                tier, as_reserved = self._worst_tier(pod), False
            bound = Bound(pod, "none" if tier is None else tier.name.lower())
        elif before.node != pod.node:
            changed |= {before.node}
            self._bound.get(before.node, {}).pop(pod.uid, None)
        returned = self._departed.forget(pod.uid)
        self._bound.setdefault(pod.node, {})[pod.uid] = pod
        if returned or not as_reserved or len(changed) > 1:
            self._change(changed)
        return bound

    def _as_reserved(self, pod: Pod, reserved: Reservation | None) -> bool:
        """Whether a binding takes the very place that was held, so that the row of its node says it already.

        Places are given out in the order of pods, the bound ones first: with another pod on its way that order changes.
        """
        return (
            reserved is not None
            and reserved.node == pod.node
            and not self.reservations.on(pod.node)
            and replace(reserved.pod, node=pod.node) == pod
        )

    def remove_pod(self, uid: str, now_s: float) -> None:
        """A pod was deleted: its place is free, whatever the digest still says."""
        self._forget(uid, now_s)
        self.pods.pop(uid, None)

    def set_pods(self, pods: Sequence[Pod], now_s: float) -> list[Bound]:
        """These pods are all there are, as a list before a watch says."""
        for uid in self.pods.keys() - {pod.uid for pod in pods}:
            self.remove_pod(uid, now_s)
        return [bound for pod in pods if (bound := self.set_pod(pod, now_s)) is not None]

    def expire(self, now_s: float) -> None:
        """Drop reservations that ran out."""
        gone = self.reservations.expire(now_s)
        if gone:
            self._change(gone)
        elif self._awaited(now_s) is None:
            self.settle()

    def fit(self, pod: Pod, names: Sequence[str]) -> NDArray[np.int8]:
        """[names]: FITS or an index into REASONS. Changes nothing."""
        with self._without(pod.uid):
            verdict = fits(pod, self.table.rows_of(names), self.table)
        self._fit = self._changes, pod
        return verdict

    def reason_without(self, pod: Pod, node: str, leaving: Iterable[str]) -> Reason | None:
        """Why the pod would not fit a node whose pods `leaving` (UIDs) were gone; None where it would."""
        aside = frozenset((pod.uid, *leaving))
        self._refresh({node}, aside)
        try:
            verdict = int(fits(pod, self.table.rows_of([node]), self.table)[0])
        finally:
            self._refresh({node})
        return None if verdict == FITS else REASONS[verdict]

    def pods_on(self, node: str) -> Mapping[str, Pod]:
        """Pods bound to a node, by UID."""
        return self._bound.get(node, {})

    def warm_bytes(self, pod: Pod) -> int:
        """Bytes of scenes that would be lost with a pod: what its node says it holds, else the scenes it names."""
        node = self.nodes.get(pod.node)
        for said in node.pods if node else ():
            if said.uid == pod.uid:
                return sum(scene.bytes for scene in said.resident)
        return sum(self.table.scenes.bytes_of(scene) or pod.scene_bytes.get(scene, 0) for scene in pod.scenes)

    def decide(self, pod: Pod, names: Sequence[str], now_s: float) -> Decision:
        """Price every node, or say what was foreseen. Changes nothing; `reserve` holds the place."""
        foreseen = self._awaited(now_s)
        if foreseen is not None and foreseen[0].pod == pod and foreseen[1] == names:
            return foreseen[0]
        self.settle()
        return self._price(pod, names, now_s)

    def _price(self, pod: Pod, names: Sequence[str], now_s: float, verdict: NDArray[np.int8] | None = None) -> Decision:
        rows = self.table.rows_of(names)
        with self._without(pod.uid):
            if verdict is None:
                verdict = fits(pod, rows, self.table)
            expected = NOTHING_EXPECTED if pod.scenes else self._expected.get(pod.pool, NOTHING_EXPECTED)
            costs = cost_s(pod, rows, Basis(self.table, self.demand, self.prices, now_s), expected)
        total_s = np.where(verdict == FITS, costs.total_s, np.inf)
        best = int(total_s.argmin()) if len(total_s) else -1
        winner = names[best] if best >= 0 and np.isfinite(total_s[best]) else ""
        age_s = now_s - self.table.seen_s[rows]
        return Decision(pod, names, verdict, costs, total_s, scores(total_s), age_s, winner, now_s, expected)

    def foresee(self, pod: Pod, names: Sequence[str], now_s: float) -> Decision:
        """Price now what will be asked about next: the `names` of which `fit` said that they do.

        Whatever changes until then makes it worthless.
        """
        self.settle()
        known = np.full(len(names), FITS, np.int8) if self._fit == (self._changes, pod) else None
        decision = self._price(pod, names, now_s, known)
        self._foreseen = self._changes, decision, names
        return decision

    def narrow(self, decision: Decision, contenders: NDArray[np.bool_]) -> Sequence[str]:
        """The names of what was just foreseen that are left in the running: what will be asked about instead."""
        names = kept(decision.names, contenders)
        self._foreseen = self._changes, replace(decision, contenders=contenders), names
        return names

    def _awaited(self, now_s: float) -> tuple[Decision, Sequence[str]] | None:
        """What was foreseen and may still be asked about, and by which names."""
        if self._foreseen is None or self._foreseen[0] != self._changes:
            return None
        _, decision, names = self._foreseen
        return (decision, names) if 0.0 <= now_s - decision.now_s <= FORESEEN_FOR_S else None

    def set_capacity_type(self, name: str, capacity_type: str) -> None:
        """Take what a node's label says: `reserved`, `on-demand`, `spot`, or empty where it says nothing."""
        if name in self.table.rows:
            self.table.unreserved[self.table.rows[name]] = capacity_type not in ("", "reserved")
            self._changes += 1

    def set_forecast(self, pool: str, demand: Mapping[SceneId, float]) -> None:
        """Take the demand that is forecast for a pool, by scene, in any one unit; empty forgets it."""
        expected = expected_shares(demand)
        if expected != self._expected.pop(pool, {}):
            self._changes += 1
        if expected:
            self._expected[pool] = expected

    def reserve(self, decision: Decision, now_s: float) -> None:
        """Hold the winner's place until the pod's binding is seen; a pod that holds one already needs none."""
        pod = decision.pod
        known = self.pods.get(pod.uid)
        if pod.uid and decision.winner and not (known is not None and known.holds):
            self._unsettled |= self.reservations.reserve(pod, decision.winner, now_s)

    @property
    def reservations_without_pod(self) -> int:
        """Reservations less the living pods that they are for: what a missed word about a pod leaves behind."""
        return sum(uid not in self.pods or self.pods[uid].finished for uid in self.reservations.uids)

    def settle(self) -> None:
        """Write what was put off until nobody waits for an answer; whoever reads it before does it too."""
        if self._unsettled:
            names, self._unsettled = self._unsettled, set()
            self._write(names, frozenset())
        if self._taking:  # what is taken brings rows in step
            return
        self._taking = True
        try:
            while self._put_off:
                name, digest, seen_s = self._put_off.popleft()
                if digest is None:
                    self._confirm(name, seen_s)
                else:
                    self._take_digest(name, digest, seen_s)
        finally:
            self._taking = False

    @property
    def snapshot(self) -> Snapshot:
        """All of it at this moment, for whoever keeps it."""
        return Snapshot(dict(self.nodes), dict(self.pods))

    @property
    def demand(self) -> Demand:
        """What the pods that came last asked for."""
        return self._requests.demand

    @property
    def stranded_slices(self) -> float:
        """Free memory slices of the whole fleet that are of no use to the demand (fleet.mig.fragmentation_table)."""
        return float(self.demand.fragmentation[self.table.gpu_part, self.table.gpu_mask].sum())

    def _worst_tier(self, pod: Pod) -> Tier | None:
        """Where the scenes of a pod lie on its node, the worst of them; None where it names none."""
        row = np.array([self.table.rows.get(pod.node, UNKNOWN_ROW)])
        peers = bool((self.table.peer_bytes_per_s > 0).any())
        scenes = self.table.scenes
        columns = [scenes.get(scene) for scene in pod.scenes]
        tiers = [int(scenes.tiers(column, row, peers)[0]) if column else Tier.REMOTE for column in columns]
        return Tier(min(tiers)) if tiers else None

    def _forget(self, uid: str, now_s: float) -> None:
        changed = self.reservations.release(uid)
        pod = self.pods.get(uid)
        if pod is not None and pod.holds:
            self._bound.get(pod.node, {}).pop(uid, None)
            node = self.nodes.get(pod.node)
            if node is not None:  # else no exporter will ever name it
                self._departed.drop_unnamed(node, now_s)
                self._departed.add(uid, pod.node, now_s)
            changed |= {pod.node}
        self._change(changed)

    def _change(self, names: set[str]) -> None:
        """Bring rows in step after something changed for good."""
        self._freed |= names
        self._refresh(names)

    def _refresh(self, names: set[str], aside: frozenset[str] = frozenset()) -> None:
        """Bring the table's rows in step with what is bound and reserved on `names`, `aside` (UIDs) left out."""
        self.settle()
        self._write(names, aside)

    def _write(self, names: set[str], aside: frozenset[str]) -> None:
        for name in sorted(names):  # an order that a replay has too
            if name not in self.nodes:
                continue
            bound = self._bound.get(name, {})
            reserved = [pod for pod in self.reservations.on(name) if pod.uid not in bound]
            claims = [pod for pod in (*bound.values(), *reserved) if pod.uid not in aside]
            departed = aside.union(self._departed.on(name))
            self.table.set_claims(self.nodes[name], claims, departed)
            self._changes += 1

    @contextmanager
    def _without(self, uid: str) -> Iterator[None]:
        """The table as if this pod held no place: its own must not stand in its way."""
        reservation = self.reservations.get(uid)
        known = self.pods.get(uid)
        places = {reservation.node} if reservation else set()
        if known is not None and known.holds:
            places.add(known.node)
        self._refresh(places, aside=frozenset((uid,)))
        try:
            yield
        finally:
            self._refresh(places)
