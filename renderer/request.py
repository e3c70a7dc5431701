"""The request parameters of the model `gaussian_renderer`: names, types, limits, defaults; checked before any work."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from fleet.scene import SceneId, SceneIdError, parse_scene_id
from renderer.camera import MAX_SIZE_PX
from renderer.splats import MAX_GAUSSIANS, MAX_SH_DEGREE

Action = Literal["render", "warm", "drop", "check"]
Format = Literal["raw", "jpeg", "png", "webp"]
Layer = Literal["rgb", "depth", "alpha"]

MAX_PIXELS = 8192 * 4320
_EARLIEST_UNIX_MS = 1e11  # 1973; a smaller number is a duration


class BadRequest(Exception):
    """Request parameters that are wrong; names each with its value and what is allowed."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a request gets that does not say."""

    scene: SceneId | None
    width: int = 512
    height: int = 512


@dataclass(frozen=True, slots=True)
class RenderRequest:
    """Checked parameters of one request."""

    action: Action
    scene: SceneId  # nothing to the action check
    width: int
    height: int
    preload: bool = False  # of the action warm: nobody waits for the scene yet
    format: Format = "raw"
    quality: int = 85
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    layers: Layer = "rgb"
    sh_degree: int | None = None
    gaussian_budget: int | None = None  # at most so many are drawn: a sample, grown
    deadline_ms: float | None = None  # Unix milliseconds, or a duration from the moment the model gets the request
    client_time_ms: float | None = None  # echoed

    def is_late(self, arrived_unix_ms: float, now_unix_ms: float) -> bool:
        """Whether nobody wants the frame any more."""
        left_s = self.left_s(arrived_unix_ms, now_unix_ms)
        return left_s is not None and left_s <= 0

    def left_s(self, arrived_unix_ms: float, now_unix_ms: float) -> float | None:
        """Seconds until the deadline, 0 where it passed, None where there is none."""
        if self.deadline_ms is None:
            return None
        is_duration = self.deadline_ms < _EARLIEST_UNIX_MS
        return max(0.0, (self.deadline_ms + (arrived_unix_ms if is_duration else 0.0) - now_unix_ms) / 1000)


def parse_request(parameters: Mapping[str, Any], defaults: Defaults) -> RenderRequest:
    """Check all parameters at once; raises BadRequest that names every fault."""
    faults: list[str] = []
    values: dict[str, Any] = {}
    for name, value in parameters.items():
        parse = _PARSERS.get(name)
        if parse is None:
            faults.append(_unknown(name))
            continue
        try:
            values[name] = parse(value)
        except (ValueError, TypeError) as error:
            shown = value if not isinstance(value, str) or len(value) <= 80 else value[:77] + "..."
            faults.append(str(error) if isinstance(error, SceneIdError) else f"{name} is {shown!r}, expected {error}")
    values.setdefault("action", "render")
    values.setdefault("width", defaults.width)
    values.setdefault("height", defaults.height)
    if "scene" not in values and "scene" not in parameters:
        if defaults.scene is None and values["action"] != "check":
            faults.append("scene is missing, and this server has no default scene")
        values["scene"] = defaults.scene
    if values["width"] * values["height"] > MAX_PIXELS:
        faults.append(f"width x height is {values['width']} x {values['height']}, expected {MAX_PIXELS} pixels at most")
    if faults:
        raise BadRequest("; ".join(faults))
    return RenderRequest(**values)


def parse_size(text: str) -> tuple[int, int]:
    """`640x480` as (width, height); raises ValueError."""
    width, _, height = text.partition("x")
    try:
        return _whole(1, MAX_SIZE_PX)(int(width)), _whole(1, MAX_SIZE_PX)(int(height))
    except ValueError as error:
        raise ValueError(
            f"size is {text!r}, expected WIDTHxHEIGHT of 1 to {MAX_SIZE_PX}, for example 640x480"
        ) from error


def _unknown(name: str) -> str:
    close = difflib.get_close_matches(name, _PARSERS, 1)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_PARSERS)}"
    return f"{name[:80]!r} is no parameter; {hint}"


def _scene(value: Any) -> SceneId:
    if not isinstance(value, str):
        raise TypeError("a scene id as text")
    return parse_scene_id(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[Any], str]:
    def parse(value: Any) -> str:
        if value not in choices:
            raise ValueError("one of " + " | ".join(choices))
        return str(value)

    return parse


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise ValueError(f"a whole number from {low} to {high}")
        if not low <= value <= high:
            raise ValueError(f"{low} to {high}")
        return int(value)

    def checked(value: Any) -> int:
        try:
            return parse(value)
        except OverflowError as error:  # int(inf)
            raise ValueError(f"{low} to {high}") from error

    return checked


def _colour(value: Any) -> tuple[float, float, float]:
    allowed = "three numbers from 0 to 1, for example 0,0,0"
    parts = value.split(",") if isinstance(value, str) else []
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise ValueError(allowed) from error
    if len(numbers) != 3 or not all(0 <= number <= 1 for number in numbers):
        raise ValueError(allowed)
    return (numbers[0], numbers[1], numbers[2])


def _positive(value: Any) -> float:
    number = _finite(value)
    if number <= 0:
        raise ValueError("a number of milliseconds more than 0")
    return number


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError("a finite number")
    return float(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "action": _one_of(get_args(Action)),
    "preload": _flag,
    "scene": _scene,
    "width": _whole(1, MAX_SIZE_PX),
    "height": _whole(1, MAX_SIZE_PX),
    "format": _one_of(get_args(Format)),
    "quality": _whole(1, 100),
    "background": _colour,
    "layers": _one_of(get_args(Layer)),
    "sh_degree": _whole(0, MAX_SH_DEGREE),
    "gaussian_budget": _whole(1, MAX_GAUSSIANS),
    "deadline_ms": _positive,
    "client_time_ms": _finite,
}
