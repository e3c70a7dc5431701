"""Scenes are brought to a node that has no renderer pod, by the agent that the pod watch finds there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from autoscaler.decision import WarmAsk
from autoscaler.node_services import Addresses, NodeServices
from autoscaler.warm_calls import WarmCalls
from fleet.labels import COMPONENT_LABEL, EXPORTER_PORT_NAME, NODE_COMPONENT, SCENE_AGENT_PORT_NAME
from fleet.scene import SceneId
from renderer.catalogue import Catalogue, save_catalogue
from tests.control_plane.objects import add_node
from tests.kubernetes_autoscaler.cluster import MERGE, REPOSITORY, Demand, Process, Space, until
from tests.scene_path.agents import Agent, entry_of, make_scene

NODE = "operator-cold"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """The scene agent of a node whose store is empty, with the scene `ball` in its catalogue."""
    make_scene(tmp_path / "scenes/ball.ply")
    entry = entry_of(tmp_path / "scenes/ball.ply")
    catalogue = tmp_path / "catalogue.json"
    save_catalogue(Catalogue([entry]), catalogue)
    made = Agent(tmp_path / NODE, catalogue)
    yield made
    made.stop()


@pytest.fixture
def exporter(agent: Agent) -> Iterator[str]:
    """URL of the exporter of that node."""
    command = [sys.executable, "-m", "splatfleet", "exporter", "--node", NODE, "--listen", "127.0.0.1:0"]
    child = subprocess.Popen(
        [*command, "--scene-cache", str(agent.layout.root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=REPOSITORY,
        env=os.environ,
    )
    assert child.stdout is not None
    line = next(line for line in child.stdout if "http://" in line)
    yield "http://" + line.partition("http://")[2].split()[0].removesuffix("/metrics")
    child.terminate()
    child.communicate(timeout=40)


@pytest.mark.usefixtures("kubelet")
def test_a_node_without_a_pod_gets_the_scene_that_is_asked_for(
    space: Space,
    demand: Demand,
    start: Callable[..., Process],
    agent: Agent,
    exporter: str,
) -> None:
    add_node(space.plane, NODE)
    space.plane.kubectl("cordon", NODE)  # no renderer pod comes here
    try:
        ports = {EXPORTER_PORT_NAME: exporter, SCENE_AGENT_PORT_NAME: agent.url}
        listed = [{"name": name, "containerPort": urlsplit(url).port} for name, url in ports.items()]
        container = {"name": "node", "image": "none", "ports": listed}
        metadata = {"name": "node", "labels": {COMPONENT_LABEL: NODE_COMPONENT}}
        spec = {"nodeName": NODE, "containers": [container], "terminationGracePeriodSeconds": 0}
        pods = space.path("pods", group="api/v1")
        space.plane.request("POST", pods, {"metadata": metadata, "spec": spec})
        status = {"phase": "Running", "podIP": "127.0.0.1"}
        space.plane.request("PATCH", f"{pods}/node/status", {"status": status}, MERGE)
        space.deploy()
        space.autoscale()
        demand.rate_per_s = 2.0
        assert agent.stored() == set()
        process = start("--scene-agent-token-file", str(agent.token_file))
        until(lambda: agent.stored() == {"ball"}, 60)
        assert not any(pod["spec"].get("nodeName") == NODE for pod in space.pods() if pod["metadata"]["name"] != "node")
        refused = [line for line in process.text.splitlines() if "scene not warmed" in line]
        assert not any(NODE in line for line in refused), "the pods of this test have no Triton, but the node an agent"
    finally:
        space.plane.kubectl("delete", "node", NODE)


def test_an_ask_that_is_not_taken_is_counted_and_said_without_the_token(
    agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another-token-9876543210\n")
    asks = [WarmAsk(SceneId("ball"), "disk", time.time() + 5, node=NODE), WarmAsk(SceneId("ball"), "disk", 0.0, "n2")]
    calls = WarmCalls({NODE: agent.url}.get, {}.get, time.time, wrong)
    calls.ask(asks)
    until(lambda: calls.failed == 2)
    calls.ask([WarmAsk(SceneId("ball"), "memory", 0.0, pod_uid="gone")])
    calls.close()
    said = capsys.readouterr().out
    assert "401" in said
    assert "node n2 has no scene agent" in said
    assert "another-token" not in said
    right = WarmCalls({NODE: agent.url}.get, {}.get, time.time, agent.token_file)
    right.ask(asks[:1])
    agent.wait_state("ball", "stored", "")
    until(lambda: agent.stored() == {"ball"})
    right.close()


def test_a_digest_stays_while_its_exporter_is_silent_and_goes_with_its_node(exporter: str) -> None:
    known = {NODE: exporter}
    services = NodeServices(lambda: Addresses(dict(known)), poll_s=60.0)
    services.refresh()
    assert services.digests()[NODE].node == NODE
    known[NODE] = "http://127.0.0.1:1"
    services.refresh()
    assert set(services.digests()) == {NODE}
    known.clear()
    services.refresh()
    assert services.digests() == {}
    known["another"] = exporter  # a node is not taken at another one's word
    services.refresh()
    assert services.digests() == {}
    services.close()
