"""Agents that end with their test, and an S3 server for all tests of the scene path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.s3_server import S3Server, free_port, s3_server
from renderer.catalogue import Catalogue, CatalogueEntry, save_catalogue
from tests.scene_path.agents import Agent

StartAgent = Callable[..., Agent]


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """`start_agent(node, entries, *flags, environment=, capacity_bytes=)`."""
    agents: list[Agent] = []

    def start(node: str, entries: list[CatalogueEntry], *flags: str, **options: object) -> Agent:
        catalogue = tmp_path / "catalogue.json"
        save_catalogue(Catalogue(entries), catalogue)
        agents.append(Agent(tmp_path / node, catalogue, flags, **options))  # type: ignore[arg-type]
        return agents[-1]

    yield start
    for agent in agents:
        agent.stop()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[S3Server]:
    """versitygw where it is installed, else a stub, which the output says."""
    with s3_server(tmp_path_factory.mktemp("s3") / "buckets", free_port()) as server:
        if not server.is_real:
            reporter = request.config.pluginmanager.getplugin("terminalreporter")
            reporter.write_line("S3: versitygw is not installed (SPLATFLEET_VERSITYGW); a stub of its wire stands in")
        yield server
