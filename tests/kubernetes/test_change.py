"""Change without downtime: a renderer's version and a scene's content are replaced under load, and taken back.

Every request has its frame, and no pod gets one before it holds the scene: rolling, by weights of the gateway, and back
by one command each.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from fleet import labels
from renderer import made
from renderer.catalogue import Catalogue, save_catalogue
from renderer.formats import ply
from renderer.scene_folder import build_catalogue
from tests.kubernetes.fleet import eventually
from tests.kubernetes.standing import POOLS, Standing
from tests.kubernetes.traffic import Answer, Traffic

pytestmark = [pytest.mark.triton, pytest.mark.prometheus, pytest.mark.timeout(240)]

POOL, GREEN = "versions", "green"
RATE_PER_S = 5.0
CANARY_PER_S = 6.0  # more than the new pool can render: its gateway goes while requests wait in it
VERSION_ENV = "EXAMPLE_VERSION"


@pytest.fixture(scope="module")
def pool(standing: Standing) -> Iterator[Standing]:
    """Two pods that nobody scales."""
    with standing.pool(standing.spec(POOL, 2)):
        yield standing


def rolled(standing: Standing, pool: str) -> None:
    """Wait until the last pod of the old version has ended."""
    standing.rolled(pool)
    eventually(lambda: len(standing.alive(pool, ended=True)) == 2, 40, "the old pods have ended")


def set_environment(standing: Standing, pool: str, **values: str) -> None:
    standing.kubectl("set", "env", f"deployment/{pool}", *(f"{name}={value}" for name, value in values.items()))


def new_content(standing: Standing, folder: Path) -> Path:
    """The same catalogue with other Gaussians under the first scene's id."""
    scene = standing.scenes.ids[0]
    (folder / "new").mkdir()
    ply.write(folder / "new" / f"{scene}.ply", made.make(scene, 5000, seed=99))
    replaced = build_catalogue(folder / "new")[0].entries
    path = folder / "catalogue-2.json"
    save_catalogue(Catalogue([*(dict(standing.scenes.catalogue.entries) | dict(replaced)).values()]), path)
    return path


def assert_none_lost(traffic: Traffic, begun_s: float) -> Sequence[Answer]:
    seen = traffic.since(begun_s)
    assert len(seen) > 5
    assert not traffic.lost(begun_s), traffic.lost(begun_s)[:3]
    assert {answer.cache for answer in seen} == {"hit"}  # a pod that had to load the scene first would say so
    return seen


def steady(traffic: Traffic) -> float:
    """Wait until the gateway knows who holds the scene; the moment, monotonic."""
    eventually(lambda: [found.cold for found in traffic.answers[-5:]] == ["none"] * 5, 20, "frames come")
    return time.monotonic()


def test_a_renderers_version_is_rolled_out_without_a_lost_frame(pool: Standing) -> None:
    with pool.traffic(POOL, RATE_PER_S) as traffic:
        begun_s, old = steady(traffic), {life.uid for life in pool.ready(POOL)}
        set_environment(pool, POOL, **{VERSION_ENV: secrets.token_hex(4)})
        rolled(pool, POOL)
        new = {life.uid for life in pool.ready(POOL)}
        assert not new & old
        eventually(lambda: {answer.pod for answer in traffic.answers[-8:]} <= new, 20, "the new version answers")
    answers = assert_none_lost(traffic, begun_s)
    assert {answer.cold for answer in answers} == {"none"}
    pods = {answer.pod for answer in answers}
    assert pods & old
    assert pods & new


def test_a_scenes_content_is_replaced_and_taken_back_without_a_lost_frame(pool: Standing, tmp_path: Path) -> None:
    """A version of the catalogue belongs to a version of the pods: none serves both, and each is warm when Ready."""
    with pool.traffic(POOL, RATE_PER_S) as traffic:
        eventually(lambda: len(traffic.answers) > 15, 20)
        begun_s, pictures = steady(traffic), {answer.frame for answer in traffic.answers}
        old = {life.uid for life in pool.ready(POOL)}
        set_environment(pool, POOL, **{labels.CATALOGUE_ENV: str(new_content(pool, tmp_path))})
        rolled(pool, POOL)
        changed_s = time.monotonic()
        eventually(lambda: len(traffic.since(changed_s)) > 10, 20)
        pool.kubectl("rollout", "undo", f"deployment/{POOL}")
        rolled(pool, POOL)
        back_s = time.monotonic()
        eventually(lambda: len(traffic.since(back_s)) > 10, 20)
    answers = assert_none_lost(traffic, begun_s)
    assert {answer.cold for answer in answers} == {"none"}
    for answer in answers:
        if answer.pod in old:
            assert answer.frame in pictures
    assert not {answer.frame for answer in answers if changed_s < answer.begun_s < changed_s + 1.0} & pictures
    assert {answer.frame for answer in traffic.since(back_s)} <= pictures
    template = json.loads(pool.kubectl("get", f"deployment/{POOL}", "-o", "json"))["spec"]["template"]
    environment = {found["name"]: found.get("value") for found in template["spec"]["containers"][0]["env"]}
    assert environment[labels.CATALOGUE_ENV] == str(pool.scenes.catalogue_file)


def weigh(standing: Standing, **weights: int) -> None:
    """What `helm upgrade` with other `trafficWeight`s changes: the gateway's flags, and so its pods, one by one."""
    flags = [f"--split={name}={weight}" for name, weight in weights.items()]
    catalogue = f"--catalogue={standing.scenes.catalogue_file}"
    args = ["gateway", "--kubernetes", catalogue, *(f"--pool={pool}" for pool in POOLS), "--hold-s=40", *flags]
    container = {"name": "gateway", "args": [*args, f"--listen=0.0.0.0:{labels.GATEWAY_PORT}"]}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    standing.kubectl("patch", "deployment/gateway", "-p", json.dumps(patch))
    standing.rolled("gateway")


def share(standing: Standing, answers: Sequence[Answer], pool: str) -> float:
    uids = {life.uid for life in standing.lives(pool)}
    return sum(answer.pod in uids for answer in answers) / max(1, len(answers))


def test_a_canary_takes_its_share_then_all_and_one_command_takes_it_back(pool: Standing) -> None:
    """Blue and green, with a canary between: weights of the gateway, whose pods are replaced under the same load."""
    weigh(pool, **{POOL: 100, GREEN: 0})
    revision = pool.kubectl(
        "get", "deployment/gateway", "-o", r"jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}"
    )
    try:
        with pool.traffic("", CANARY_PER_S) as traffic:
            begun_s = time.monotonic()
            with pool.pool(pool.spec(GREEN, 1, {VERSION_ENV: "2"})):
                assert share(pool, traffic.since(begun_s), GREEN) == 0.0
                weigh(pool, **{POOL: 70, GREEN: 30})
                weighed_s = time.monotonic() + 2.0  # the old gateway has ended
                eventually(lambda: len(traffic.since(weighed_s)) > 40, 30)
                assert 0.1 < share(pool, traffic.since(weighed_s), GREEN) < 0.55
                weigh(pool, **{POOL: 0, GREEN: 100})
                weighed_s = time.monotonic() + 2.0
                eventually(lambda: len(traffic.since(weighed_s)) > 20, 40)
                assert share(pool, traffic.since(weighed_s), GREEN) == 1.0
                pool.kubectl("rollout", "undo", "deployment/gateway", f"--to-revision={revision}")
                pool.rolled("gateway")
                weighed_s = time.monotonic() + 2.0
                eventually(lambda: len(traffic.since(weighed_s)) > 20, 40)
                assert share(pool, traffic.since(weighed_s), GREEN) == 0.0
                eventually(lambda: traffic.answered(weighed_s), 40)  # the green pool may go when nobody waits for it
        assert_none_lost(traffic, begun_s)
    finally:
        weigh(pool)
        eventually(lambda: len(pool.fleet.ready_pods("gateway")) == 1, 30, "one gateway is left")
