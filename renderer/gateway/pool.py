"""One pool at work: does what the routing core says, and tells it what came of it.

Everything runs in one event loop; between two awaits nothing else moves.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import structlog

from renderer.client import RendererClient, RendererError, RenderReply
from renderer.gateway.routing import Cold, QueueFull, Router, Step, Ticket
from renderer.gateway.wire import FrameRequest, Refusal

# First and longest pause between two asks what became of a load. Each ask waits in Triton's queue and counts there as
# a request, so that a scene is resident is read from the pod's metrics; only a failure is learnt by asking.
WARM_ASK_S = (1.0, 5.0)
LOAD_DEADLINE_S = 120.0
UNKNOWN_FOR_S = 5.0  # an id that a pod does not know is refused at once for so long
RECHECK_S = 0.1  # waiting requests are looked at this often even if nothing happens
MAX_UNKNOWN = 1000
HANG_S = 30.0  # a pod that takes longer for a frame without a deadline hangs; another is asked
LATE_IN_A_ROW = 3  # so many missed deadlines, and a pod may hang: ask it
TRIES = 2  # of a frame that pods had: one that ends a pod ends no more of them
MOST_ASKED = 8  # pods in a row of which none had the frame: they ended, and nobody told us yet
WARM_TIMEOUT_S = 10.0  # warm answers at once, but waits behind the frame that runs

log = structlog.get_logger("gateway")


class ClientGone(Exception):
    """Whoever asked hung up while the request was held."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A frame, and what it took."""

    reply: RenderReply
    pod: str
    cold: Cold


@dataclass(slots=True)
class Frame:
    """One request on its way through the pool."""

    request: FrameRequest
    arrived_s: float
    deadline_s: float  # monotonic; when the answer is worth nothing any more
    has_deadline: bool
    gone: Callable[[], Awaitable[None]] | None = None  # returns when the client hangs up
    cold: Cold = "none"
    hold_s: float | None = None  # how long it waits for a pod; None is the pool's own limit
    session: str = ""  # a newer frame of the same session takes the place of one that waits
    newest: Callable[[], FrameRequest] | None = None  # a stream: what to render is asked once it is its turn


class Pool:
    """The waiting requests, the routing core and the clients of one pool."""

    def __init__(self, name: str, router: Router, hold_s: float, suspect: Callable[[str], None]) -> None:
        self.name = name
        self.router = router
        self.clients: dict[str, RendererClient] = {}
        self._hold_s = hold_s
        self._suspect = suspect
        self._waiters: dict[int, asyncio.Future[str]] = {}
        self._numbers = 0
        self._warming: set[asyncio.Task[None]] = set()
        self._loads: dict[tuple[str, str], asyncio.Event] = {}  # by pod and scene, set once the scene is resident
        self.load_began: Callable[[str], None] = lambda _uid: None  # told which pod is worth a look more often
        self._of_session: dict[str, Ticket] = {}  # the one that waits
        self._unknown_until_s: dict[str, float] = {}
        self._load_errors: dict[str, str] = {}  # last error by scene
        self._late: Counter[str] = Counter()  # missed deadlines in a row by pod
        self._recheck: asyncio.TimerHandle | None = None

    async def render(self, frame: Frame) -> Answer:
        """Wait for a pod that holds the scene, have it render, once more elsewhere if it fails; raises Refusal.

        A pod that never had the frame does not count: in a roll-out several end at once.
        """
        if self._unknown_until_s.get(frame.request.scene, 0.0) > time.monotonic():
            raise unknown_scene(frame.request.scene)
        ticket = self._ticket(frame)
        try:
            frame.cold = self.router.arrive(ticket)
        except QueueFull as full:
            raise Refusal(
                503, "queue_full", f"{self.router.waiting} requests wait in pool {self.name}", retry_after_s=1
            ) from full
        tries = 0
        for asked in range(1, MOST_ASKED + 1):
            uid = await self._place(ticket, frame)
            try:
                reply = await self._ask(uid, frame)
                self._late.pop(uid, None)
                self.router.learn_resident(uid, ticket.scene, time.monotonic())
                return Answer(reply, uid, frame.cold)
            except RendererError as error:
                tries += error.begun
                self._judge(uid, frame, error, last_try=tries >= TRIES or asked == MOST_ASKED)
                ticket.avoid = uid
            finally:
                self.router.release(uid)
                self.pump()
            self.router.come_back(ticket)
        raise AssertionError("the last try returns or raises")

    def pump(self) -> None:
        """Do what can be done now; called after every change."""
        step = self.router.assign(time.monotonic())
        self._carry_out(step)
        if self.router.waiting and self._recheck is None:
            self._recheck = asyncio.get_running_loop().call_later(RECHECK_S, self._pump_again)

    async def close(self) -> None:
        """Refuse those who wait and stop asking pods."""
        if self._recheck is not None:
            self._recheck.cancel()
        for waiter in self._waiters.values():
            if not waiter.done():
                waiter.set_exception(Refusal(503, "shutting_down", "the gateway shuts down", retry_after_s=1))
        for task in self._warming:
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)

    # A request.

    def _ticket(self, frame: Frame) -> Ticket:
        """A place in the queue: that of the session's older request where one waits, which is answered 409."""
        self._numbers += 1
        scene, turn = frame.request.scene, self._numbers
        older = self._of_session.get(frame.session) if frame.session else None
        if older is not None and older.scene == scene:
            turn = older.turn
            self.router.abandon(older)
            self._refuse(older, Refusal(409, "superseded", "the session asked for a newer frame"))
        # A stream has one frame in the queue, and streams are bounded by themselves.
        return Ticket(self._numbers, scene, frame.arrived_s, turn=turn, is_bounded=frame.newest is None)

    async def _place(self, ticket: Ticket, frame: Frame) -> str:
        """Wait until the core hands the request to a pod; its uid."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[str] = loop.create_future()
        self._waiters[ticket.number] = waiter
        self.pump()
        if waiter.done():
            del self._waiters[ticket.number]
            return waiter.result()
        if frame.session:
            self._of_session[frame.session] = ticket
        now_s = time.monotonic()
        hold_s = self._hold_s if frame.hold_s is None else frame.hold_s
        give_up_s = min(frame.deadline_s, frame.arrived_s + hold_s)
        timer = loop.call_later(max(0.0, give_up_s - now_s), self._expire, waiter, frame)
        watch = asyncio.ensure_future(_hang_up(frame.gone, waiter)) if frame.gone else None
        placed = False
        try:
            uid = await waiter
            placed = True
            return uid
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()
            self._waiters.pop(ticket.number, None)
            if frame.session and self._of_session.get(frame.session) is ticket:
                del self._of_session[frame.session]
            if not placed:
                self._forget(ticket, waiter)

    def _forget(self, ticket: Ticket, waiter: asyncio.Future[str]) -> None:
        """Leave no trace of a request that nobody waits for, a slot that it was just given included."""
        self.router.abandon(ticket)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self.router.release(waiter.result())

    def _expire(self, waiter: asyncio.Future[str], frame: Frame) -> None:
        if waiter.done():
            return
        if frame.has_deadline and time.monotonic() >= frame.deadline_s:
            waiter.set_exception(deadline_passed(frame))
            return
        why = "no pod is ready" if frame.cold == "pod" else "no pod had room"
        held_s = self._hold_s if frame.hold_s is None else frame.hold_s
        waiter.set_exception(
            Refusal(503, "hold_time", f"held for {held_s:g} s, {why} in pool {self.name}", retry_after_s=5)
        )

    async def _ask(self, uid: str, frame: Frame) -> RenderReply:
        request = frame.request if frame.newest is None else frame.newest()
        left_s = frame.deadline_s - time.monotonic()
        if left_s <= 0:
            raise deadline_passed(frame)
        client = self.clients.get(uid)
        if client is None:
            raise RendererError("unavailable", f"pod {uid} is gone", begun=False)
        parameters = request.parameters()
        if frame.has_deadline:
            parameters["deadline_ms"] = round(left_s * 1000.0, 1)
        view, projection = request.matrices()
        limit_s = left_s if frame.has_deadline else min(left_s, HANG_S)
        return await client.render(view, projection, parameters, timeout_s=limit_s)

    def _judge(self, uid: str, frame: Frame, error: RendererError, last_try: bool) -> None:
        """Raise what the client shall see of a pod's error, or return where another pod shall try."""
        if error.kind == "bad_request":
            raise Refusal(400, "bad_request", str(error)) from error
        is_late = time.monotonic() >= frame.deadline_s - 0.01  # a timer may fire a little early
        if error.kind == "deadline" and (frame.has_deadline or is_late):
            self._late[uid] += 1
            if self._late[uid] >= LATE_IN_A_ROW:
                self._suspect(uid)
            raise deadline_passed(frame) from error
        is_gone = error.kind in ("unavailable", "deadline")
        if is_gone:
            self._suspect(uid)
        log.warning("pod failed a frame", pool=self.name, pod=uid, kind=error.kind, error=str(error), last_try=last_try)
        if last_try:
            status = 503 if is_gone else 502
            raise Refusal(status, "renderer_failed", f"pod {uid}: {error}", retry_after_s=1) from error

    # Pods.

    def _carry_out(self, step: Step) -> None:
        for ticket, uid in step.hands:
            waiter = self._waiters.get(ticket.number)
            if waiter is None or waiter.done():
                self.router.release(uid)
            else:
                waiter.set_result(uid)
        for scene, uid in step.warms:
            task = asyncio.ensure_future(self._warm(scene, uid))
            self._warming.add(task)
            task.add_done_callback(self._warming.discard)
        for ticket in step.hopeless:
            reason = self._load_errors.get(ticket.scene, "no pod could load it")
            self._refuse(ticket, Refusal(502, "scene_failed", f"scene {ticket.scene}: {reason}", retry_after_s=5))

    def _pump_again(self) -> None:
        self._recheck = None
        self.pump()

    def _refuse(self, ticket: Ticket, refusal: Refusal) -> None:
        waiter = self._waiters.get(ticket.number)
        if waiter is not None and not waiter.done():
            waiter.set_exception(refusal)

    async def _warm(self, scene: str, uid: str) -> None:
        """Have a pod load a scene and wait until it holds it."""
        resident = False
        try:
            resident = await asyncio.wait_for(self._load(scene, uid), LOAD_DEADLINE_S)
        except TimeoutError:
            self._load_errors[scene] = f"pod {uid} did not load it within {LOAD_DEADLINE_S:g} s"
        except RendererError as error:
            self._load_errors[scene] = f"pod {uid}: {error}"
            if error.kind == "bad_request":
                self._refuse_unknown(scene)
            elif error.kind != "failed":
                self._suspect(uid)
        finally:
            self.router.warm_ended(uid, scene, time.monotonic(), resident)
        if not resident:
            log.warning("scene not loaded", pool=self.name, pod=uid, scene=scene, error=self._load_errors.get(scene))
        self.pump()

    def saw_resident(self, uid: str, scenes: Mapping[str, int], asked_s: float) -> None:
        """What a pod's metrics said that it holds when they were asked at `asked_s`."""
        self.router.set_resident(uid, scenes, asked_s)
        for (loading_uid, scene), resident in self._loads.items():
            if loading_uid == uid and scene in scenes:
                resident.set()
        self.pump()

    def is_loading(self, uid: str) -> bool:
        """Whether somebody waits for a scene that this pod loads."""
        return any(loading_uid == uid for loading_uid, _ in self._loads)

    async def _load(self, scene: str, uid: str) -> bool:
        resident = self._loads[uid, scene] = asyncio.Event()
        self.load_began(uid)
        try:
            return await self._follow_load(scene, uid, resident)
        finally:
            del self._loads[uid, scene]

    async def _follow_load(self, scene: str, uid: str, resident: asyncio.Event) -> bool:
        pause_s, longest_s = WARM_ASK_S
        while (client := self.clients.get(uid)) is not None:
            stats = await client.warm(scene, WARM_TIMEOUT_S)
            match stats.get("state"):
                case "resident":
                    self._load_errors.pop(scene, None)
                    return True
                case "unknown":
                    self._load_errors[scene] = f"pod {uid} does not know it"
                    self._refuse_unknown(scene)
                    return False
                case "failed":
                    self._load_errors[scene] = f"pod {uid}: {stats.get('message') or 'failed to load it'}"
                    return False
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(resident.wait(), pause_s)
                self._load_errors.pop(scene, None)
                return True
            pause_s = min(pause_s * 2.0, longest_s)
        self._load_errors[scene] = f"pod {uid} went away"
        return False

    def _refuse_unknown(self, scene: str) -> None:
        if len(self._unknown_until_s) >= MAX_UNKNOWN:
            self._unknown_until_s.clear()
        self._unknown_until_s[scene] = time.monotonic() + UNKNOWN_FOR_S
        for ticket in self.router.drop_scene(scene):
            self._refuse(ticket, unknown_scene(scene))

    def is_unknown(self, scene: str) -> bool:
        """Whether a pod said lately that there is no such scene."""
        return self._unknown_until_s.get(scene, 0.0) > time.monotonic()


def unknown_scene(scene: str) -> Refusal:
    return Refusal(404, "unknown_scene", f"scene {scene!r} is in no catalogue here")


def deadline_passed(frame: Frame) -> Refusal:
    after_ms = (frame.deadline_s - frame.arrived_s) * 1000.0
    return Refusal(504, "deadline", f"no frame within deadline_ms {after_ms:g}")


async def _hang_up(gone: Callable[[], Awaitable[None]], waiter: asyncio.Future[str]) -> None:
    await gone()
    if not waiter.done():
        waiter.set_exception(ClientGone())
