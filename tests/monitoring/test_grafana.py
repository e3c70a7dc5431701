"""The committed dashboards in a real Grafana, with the committed provisioning, wherever there is a binary of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from local_fleet.child import Child, free_ports
from tests.conftest import REPOSITORY

BOARDS = {
    path.stem: json.loads(path.read_text()) for path in sorted((REPOSITORY / "deploy" / "dashboards").glob("*.json"))
}


def grafana_command() -> list[str]:
    """How Grafana is started here; the test skips where it is not installed."""
    binary = os.environ.get("SPLATFLEET_GRAFANA") or shutil.which("grafana") or shutil.which("grafana-server")
    if not binary:
        pytest.skip("no Grafana here: put `grafana` on PATH, or its path into SPLATFLEET_GRAFANA")
    path = Path(binary).resolve()
    homes = [path.parent.parent, Path("/usr/share/grafana")]
    home = next((home for home in homes if (home / "conf" / "defaults.ini").is_file()), None)
    if home is None:
        pytest.skip(f"{binary}: no conf/defaults.ini beside it or in /usr/share/grafana")
    return [str(path), *(["server"] if path.name == "grafana" else []), "--homepath", str(home)]


@pytest.fixture(scope="module")
def grafana(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    command = grafana_command()
    folder = tmp_path_factory.mktemp("grafana")
    (port,) = free_ports(1)
    environment = {
        "SPLATFLEET_PROMETHEUS_URL": "http://127.0.0.1:9",
        "SPLATFLEET_DASHBOARDS": str(REPOSITORY / "deploy" / "dashboards"),
        "GF_PATHS_PROVISIONING": str(REPOSITORY / "deploy" / "grafana" / "provisioning"),
        "GF_PATHS_DATA": str(folder / "data"),
        "GF_PATHS_LOGS": str(folder / "logs"),
        "GF_SERVER_HTTP_ADDR": "127.0.0.1",
        "GF_SERVER_HTTP_PORT": str(port),
        "GF_SECURITY_ADMIN_PASSWORD": "of-this-test",
        "GF_ANALYTICS_REPORTING_ENABLED": "false",
        "GF_ANALYTICS_CHECK_FOR_UPDATES": "false",
        "GF_PLUGINS_PREINSTALL_DISABLED": "true",
    }
    child = Child("grafana", command, folder / "grafana.log", environment)
    try:
        child.wait_listening(port, 120.0)
        with httpx2.Client(
            base_url=f"http://127.0.0.1:{port}", auth=("admin", "of-this-test"), trust_env=False, timeout=20
        ) as client:
            yield client
    finally:
        child.stop()


def test_every_dashboard_is_loaded_as_it_is(grafana: httpx2.Client) -> None:
    found = {row["uid"]: row for row in grafana.get("/api/search", params={"type": "dash-db"}).json()}
    assert set(found) == {board["uid"] for board in BOARDS.values()}
    for name, board in BOARDS.items():
        loaded = grafana.get(f"/api/dashboards/uid/{board['uid']}").json()
        assert loaded["meta"]["provisioned"], name
        shown = loaded["dashboard"]
        assert shown["title"] == board["title"]
        assert [panel["title"] for panel in shown["panels"]] == [panel["title"] for panel in board["panels"]]
        assert [variable["name"] for variable in shown["templating"]["list"]] == [
            variable["name"] for variable in board["templating"]["list"]
        ]


def test_their_data_source_is_the_prometheus_that_was_named(grafana: httpx2.Client) -> None:
    source = grafana.get("/api/datasources/uid/prometheus").json()
    assert (source["type"], source["url"]) == ("prometheus", "http://127.0.0.1:9")
