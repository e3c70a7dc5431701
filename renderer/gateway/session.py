"""One streaming session: the latest camera wins, moving frames are small, resting ones are whole. A core.

Viewers that feel quick draw something small at once and refine at rest (nerfview does so); a session here does that for
any client. Times are monotonic seconds that come with each call.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from renderer.gateway.wire import FrameRequest

SMOOTHING = 0.3  # weight of the newest frame in the moving average of frame seconds
SAMPLES_A_STEP = 4  # frames on a step of the ladder before it is left


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a session is served, and what a moving frame looks like."""

    frame_s: float = 1.0 / 30.0  # no more than one frame in so long; the ladder aims at it
    rest_s: float = 0.15  # a camera that stands so long gets a whole frame
    scales: tuple[float, ...] = (1.0, 0.7, 0.5, 0.35, 0.25)  # of a moving frame's sides
    moving_quality: int = 70  # of its JPEG


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """A camera of the client's: what it asks for, and whether it says that it moves."""

    request: FrameRequest
    number: int  # the client's own
    arrived_s: float
    moving: bool | None = None  # None: to be told by the pace of the cameras
    client_time_ms: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Draw:
    """What is to be rendered now."""

    view: View
    request: FrameRequest
    is_whole: bool  # as the client asked, not made smaller
    superseded: int  # cameras that came since the last frame and get none
    arrival: int  # which camera of the session it is, from 1
    is_refinement: bool  # of a camera that had a small frame already


class Ladder:
    """How small a moving frame must be for the frame time to hold; steps with hysteresis."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._step = min(2, len(pace.scales) - 1)
        self._mean_s: float | None = None
        self._samples = 0

    @property
    def scale(self) -> float:
        return self._pace.scales[self._step]

    def measured(self, frame_s: float) -> None:
        """A moving frame took so long from when it was asked for until it was sent."""
        frame_s = min(frame_s, 10.0 * self._pace.frame_s)  # one load must not sink the ladder for long
        self._mean_s = frame_s if self._mean_s is None else self._mean_s + SMOOTHING * (frame_s - self._mean_s)
        self._samples += 1
        if self._samples < SAMPLES_A_STEP:
            return
        if self._mean_s > 1.3 * self._pace.frame_s and self._step < len(self._pace.scales) - 1:
            self._go(self._step + 1)
        elif self._step and self._mean_s * self._growth() < 0.8 * self._pace.frame_s:
            self._go(self._step - 1)

    def _growth(self) -> float:
        """Pixels of the next larger step over those of this one: what its frames may cost more."""
        return (self._pace.scales[self._step - 1] / self.scale) ** 2

    def _go(self, step: int) -> None:
        self._step, self._mean_s, self._samples = step, None, 0


class Session:
    """What a client saw, and what it is to see next."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._ladder = Ladder(pace)
        self._view: View | None = None
        self._arrivals = 0
        self._drawn = 0  # the camera that the last frame showed
        self._drawn_whole = False
        self._began_s = float("-inf")
        self._counted_s = float("-inf")

    def look(self, view: View) -> bool:
        """Take a newer camera; whether it is demand: no session wants more frames than its pace."""
        self._view = view
        self._arrivals += 1
        if view.arrived_s - self._counted_s < self._pace.frame_s:
            return False
        self._counted_s = view.arrived_s
        return True

    def due_s(self) -> float | None:
        """When the next frame is to be asked for; None until another camera comes."""
        if self._view is None:
            return None
        if self._drawn < self._arrivals:
            return self._began_s + self._pace.frame_s
        return None if self._drawn_whole else self._view.arrived_s + self._pace.rest_s

    def draw(self, now_s: float) -> Draw:
        """What to render if a pod is free now; raises LookupError where no camera came yet."""
        view = self._view
        if view is None:
            raise LookupError("the session has no camera yet")
        rests = now_s - view.arrived_s >= self._pace.rest_s
        is_refinement = self._drawn == self._arrivals
        is_whole = view.moving is False or rests or is_refinement
        request = view.request if is_whole else self._small(view.request)
        superseded = max(0, self._arrivals - self._drawn - 1)
        return Draw(view, request, is_whole, superseded, self._arrivals, is_refinement)

    def drawn(self, draw: Draw, began_s: float, ended_s: float, is_typical: bool = True) -> None:
        """A frame went out; `is_typical` is False where a load or a missing pod made it late."""
        self._began_s = began_s
        self._drawn = draw.arrival
        self._drawn_whole = draw.is_whole
        if is_typical and not draw.is_whole:
            self._ladder.measured(ended_s - began_s)

    def give_up(self) -> None:
        """No frame for the latest camera: it is wrong, and so it will be the next time."""
        self._drawn, self._drawn_whole = self._arrivals, True

    def _small(self, request: FrameRequest) -> FrameRequest:
        width, height = (max(min(side, 16), round(side * self._ladder.scale)) for side in request.size)
        quality = min(request.quality or 100, self._pace.moving_quality)
        return msgspec.structs.replace(request, size=(width, height), format="jpeg", quality=quality)
