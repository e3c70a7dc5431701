"""Request parameters, pod settings and encodings: what the model checks before it works."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fleet import labels
from fleet.scene import SceneId
from renderer.encoding import encode, to_pixels
from renderer.pod_settings import PodSettings, PodSettingsError, read_settings
from renderer.rasterizer import Frame
from renderer.request import BadRequest, Defaults, RenderRequest, parse_request

DEFAULTS = Defaults(SceneId("robot"), 640, 480)


def test_nothing_given_is_a_request() -> None:
    assert parse_request({}, DEFAULTS) == RenderRequest("render", SceneId("robot"), 640, 480)


def test_everything_given() -> None:
    given: dict[str, Any] = {
        "action": "render",
        "scene": "logo",
        "width": 32.0,
        "height": "16",
        "format": "webp",
        "quality": 50,
        "background": "1,0.5,0",
        "layers": "depth",
        "sh_degree": 0,
        "deadline_ms": 250,
        "client_time_ms": 1.5,
    }
    request = parse_request(given, DEFAULTS)
    assert (request.width, request.height, request.background) == (32, 16, (1.0, 0.5, 0.0))
    assert (request.format, request.layers, request.sh_degree, request.client_time_ms) == ("webp", "depth", 0, 1.5)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("action", "dance", "action is 'dance', expected one of render | warm | drop"),
        ("scene", "../etc", "scene id '../etc' is not valid"),
        ("scene", 7, "scene is 7, expected a scene id as text"),
        ("width", 0, "width is 0, expected 1 to 8192"),
        ("width", 8193, "width is 8193, expected 1 to 8192"),
        ("height", 1.5, "height is 1.5, expected a whole number from 1 to 8192"),
        ("height", True, "height is True, expected a whole number"),
        ("height", float("inf"), "height is inf, expected 1 to 8192"),
        ("height", float("nan"), "height is nan, expected"),
        ("format", "gif", "format is 'gif', expected one of raw | jpeg | png | webp"),
        ("quality", 101, "quality is 101, expected 1 to 100"),
        ("background", "1,2,3", "background is '1,2,3', expected three numbers from 0 to 1"),
        ("background", "red", "background is 'red', expected three numbers"),
        ("background", 0, "background is 0, expected three numbers"),
        ("layers", "rgb,depth", "layers is 'rgb,depth', expected one of rgb | depth | alpha"),
        ("sh_degree", 4, "sh_degree is 4, expected 0 to 3"),
        ("gaussian_budget", 0, "gaussian_budget is 0, expected 1 to 200000000"),
        ("preload", "yes", "preload is 'yes', expected true or false"),
        ("deadline_ms", -1, "deadline_ms is -1, expected a number of milliseconds more than 0"),
        ("client_time_ms", "now", "client_time_ms is 'now', expected a finite number"),
        ("widht", 5, "'widht' is no parameter; did you mean width?"),
        ("zzz", 5, "'zzz' is no parameter; known are action, preload, scene"),
    ],
)
def test_every_error_names_parameter_value_and_limits(name: str, value: Any, message: str) -> None:
    with pytest.raises(BadRequest, match=re.escape(message)):
        parse_request({name: value}, DEFAULTS)


def test_all_errors_at_once() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_request({"width": 0, "quality": 0, "scene": "A"}, DEFAULTS)
    assert all(name in str(caught.value) for name in ("width", "quality", "'A'"))


def test_too_many_pixels_and_no_default_scene() -> None:
    with pytest.raises(BadRequest, match="8192 x 8192, expected"):
        parse_request({"width": 8192, "height": 8192}, DEFAULTS)
    with pytest.raises(BadRequest, match="scene is missing"):
        parse_request({}, Defaults(None))


def test_deadline_is_a_moment_or_a_duration() -> None:
    moment = parse_request({"deadline_ms": 1.7e12}, DEFAULTS)
    assert [moment.is_late(0, now_ms) for now_ms in (1.6e12, 1.8e12)] == [False, True]
    duration = parse_request({"deadline_ms": 200}, DEFAULTS)
    assert [duration.is_late(1.7e12, 1.7e12 + waited_ms) for waited_ms in (100, 300)] == [False, True]
    assert not parse_request({}, DEFAULTS).is_late(0, 9e12)


def test_settings_from_the_environment() -> None:
    settings = read_settings(
        {
            labels.CATALOGUE_ENV: "/c.json",
            labels.SCENES_ENV: "a, b",
            labels.POD_BUDGET_ENV: "1000",
            labels.DEFAULT_SIZE_ENV: "640x480",
            labels.FETCH_LIMIT_ENV: "0",
            labels.FRAME_FLOOR_ENV: "0.05",
            labels.RASTERIZER_ENV: "",
        }
    )
    assert isinstance(settings, PodSettings)
    assert (settings.catalogue, settings.scenes, settings.budget_bytes) == (Path("/c.json"), ("a", "b"), 1000)
    assert (settings.default_size, settings.fetch_bytes_per_s, settings.frame_floor_s) == ((640, 480), None, 0.05)
    assert settings.rasterizer == "auto"


def test_settings_list_every_fault() -> None:
    wrong = {
        labels.SCENES_ENV: "a,B",
        labels.POD_BUDGET_ENV: "0",
        labels.STORE_CAPACITY_ENV: "20GB",
        labels.DEFAULT_SIZE_ENV: "0x4",
        labels.FRAME_FLOOR_ENV: "-1",
        labels.RASTERIZER_ENV: "magic",
    }
    with pytest.raises(PodSettingsError) as caught:
        read_settings(wrong)
    for name in (*wrong, labels.CATALOGUE_ENV):
        assert name in str(caught.value)


def test_depth_and_alpha_as_grey() -> None:
    depth = np.array([[0.0, 2.0], [3.0, 4.0]], np.float32)
    frame = Frame(np.zeros((2, 2, 3), np.float32), np.array([[0, 0.5], [1, 1]], np.float32), depth)
    pixels, scale = to_pixels(frame, "depth")
    assert pixels[..., 0].tolist() == [[0, 255], [128, 1]]
    assert scale == {"depth_near": 2.0, "depth_far": 4.0}
    assert to_pixels(frame, "alpha")[0][..., 1].tolist() == [[0, 128], [255, 255]]
    empty = Frame(frame.rgb, frame.alpha * 0, depth * 0)
    assert to_pixels(empty, "depth")[0].max() == 0


@pytest.mark.parametrize("form", ["jpeg", "png", "webp"])
def test_encoded_frames_decode_to_the_pixels(form: Any) -> None:
    ramp = np.linspace(0, 255, 64, dtype=np.uint8)
    pixels = np.stack([np.tile(ramp, (48, 1))] * 3, axis=2)
    image = Image.open(io.BytesIO(encode(pixels, form, 100)))
    assert (image.format, image.size) == (form.upper(), (64, 48))
    off = np.abs(np.asarray(image.convert("RGB")).astype(int) - pixels.astype(int)).max()
    assert off <= (3 if form == "jpeg" else 0)
    assert len(encode(pixels, "jpeg", 10)) < len(encode(pixels, "jpeg", 95))
