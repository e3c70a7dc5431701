"""Cameras that circle a scene, as bodies of `POST /v1/render` that are encoded once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from renderer.camera import look_at, matrices
from renderer.catalogue import UP_OF_TRAINED_SCENES, CatalogueEntry, Vector

POSES = 72  # a frame every 5 degrees


@dataclass(frozen=True, slots=True)
class Orbit:
    """A circle around `target` through `eye`, about the axis `up`; scene units."""

    scene: str
    eye: Vector = (2.0, -1.0, 2.0)
    target: Vector = (0.0, 0.0, 0.0)
    up: Vector = UP_OF_TRAINED_SCENES
    fov_y_degrees: float = 50.0

    def eye_at(self, turn: float) -> NDArray[np.float64]:
        """Where the camera stands after `turn` of a full circle, [3]."""
        axis = np.asarray(self.up) / np.linalg.norm(self.up)
        arm = np.subtract(self.eye, self.target)
        angle = 2.0 * math.pi * turn
        # Rodrigues' rotation of the arm about the axis.
        turned = (
            arm * math.cos(angle)
            + np.cross(axis, arm) * math.sin(angle)
            + axis * np.dot(axis, arm) * (1.0 - math.cos(angle))
        )
        place: NDArray[np.float64] = np.asarray(self.target) + turned
        return place


def orbit_of(entry: CatalogueEntry) -> Orbit:
    """The orbit through a scene's default camera, or a plain one where the catalogue has none."""
    camera = entry.default_camera
    if camera is None:
        return Orbit(entry.id, up=entry.up)
    return Orbit(entry.id, camera.eye, camera.target, entry.up, camera.fov_y_degrees)


def orbits_of_status(status: Mapping[str, Any]) -> list[Orbit]:
    """The scenes that the gateway's `/v1/status` names, with their cameras where it knows them."""
    orbits = []
    for scene in status.get("scenes") or ():
        camera = scene.get("default_camera")
        up = tuple(scene.get("up") or UP_OF_TRAINED_SCENES)
        if camera:
            orbits.append(
                Orbit(scene["id"], tuple(camera["eye"]), tuple(camera["target"]), up, camera["fov_y_degrees"])
            )
        else:
            orbits.append(Orbit(scene["id"], up=up))
    return orbits


def encode_bodies(orbit: Orbit, size: tuple[int, int], options: Mapping[str, Any], poses: int = POSES) -> list[bytes]:
    """One request body for each pose of the circle; `options` are further fields of the request."""
    return [_body(orbit, pose / poses, size, options) for pose in range(poses)]


def _body(orbit: Orbit, turn: float, size: tuple[int, int], options: Mapping[str, Any]) -> bytes:
    camera = look_at(orbit.eye_at(turn).tolist(), orbit.target, orbit.up, orbit.fov_y_degrees, *size)
    view, projection = matrices(camera)
    fields = {
        "scene": orbit.scene,
        "view_matrix": _numbers(view),
        "projection_matrix": _numbers(projection),
        "size": size,
    }
    return msgspec.json.encode(fields | dict(options))


def _numbers(matrix: NDArray[np.float64]) -> Sequence[float]:
    rounded: list[float] = matrix.round(6).ravel().tolist()
    return rounded
