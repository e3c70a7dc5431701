"""Flags, environment and file say the same thing, in that order of weight, and a wrong value is one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.__main__ import VERBS, main
from splatfleet.settings import VerbSettings, verb
from tests.conftest import REPOSITORY


class Sample(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SAMPLE_")

    url: list[str] = Field([], description="Addresses.")
    port: int = Field(1, ge=1, le=9, description="Port.")
    colour: Literal["red", "blue"] = Field("red", description="Colour.")
    json_file: Path | None = Field(None, alias="json", description="Where to.")


def _run(arguments: list[str], environment: dict[str, str] | None = None) -> tuple[int, str, list[Sample]]:
    seen: list[Sample] = []

    def run(settings: Sample) -> None:
        """Keep what was resolved."""
        seen.append(settings)

    result = CliRunner().invoke(verb("sample", Sample, run, "sample --port 3"), arguments, env=environment)
    return result.exit_code, result.output, seen


def test_flag_wins_over_environment_wins_over_file(tmp_path: Path) -> None:
    config = tmp_path / "sample.yaml"
    config.write_text("port: 2\ncolour: blue\nurl: [a]\njson: from-file.json\n")
    code, output, seen = _run(["--config", str(config), "--port", "4"], {"SAMPLE_PORT": "3", "SAMPLE_URL": "b,c"})
    assert code == 0, output
    assert (seen[0].port, seen[0].colour, seen[0].url) == (4, "blue", ["b", "c"])
    assert seen[0].json_file == Path("from-file.json")


def test_a_list_may_be_json_by_flag_environment_and_file(tmp_path: Path) -> None:
    text = '["a,b", "c"]'
    config = tmp_path / "sample.json"
    config.write_text(json.dumps({"url": [text]}))
    for arguments, environment in ((["--url", text], {}), ([], {"SAMPLE_URL": text}), (["--config", str(config)], {})):
        code, output, seen = _run(arguments, environment)
        assert code == 0, output
        assert seen[0].url == ["a,b", "c"]


def test_an_address_in_brackets_is_no_json() -> None:
    _, _, seen = _run([], {"SAMPLE_URL": "[::1]:80,[2001:db8::2]:81"})
    assert seen[0].url == ["[::1]:80", "[2001:db8::2]:81"]


def test_json_that_is_none_is_named() -> None:
    for arguments, environment in ((["--url", '["a"'], {}), ([], {"SAMPLE_URL": '["a"'})):
        code, output, _ = _run(arguments, environment)
        assert code == 2
        assert """--url: '["a"' is no JSON (Expecting ',' delimiter)""" in output


def test_an_alias_names_the_flag() -> None:
    code, _, seen = _run(["--json", "out.json"])
    assert code == 0
    assert seen[0].json_file == Path("out.json")


@pytest.mark.parametrize(
    ("arguments", "environment", "needle"),
    [
        (["--port", "12"], {}, "--port"),
        ([], {"SAMPLE_PORT": "many"}, "'many'"),
        (["--config", "/nowhere.yaml"], {}, "/nowhere.yaml"),
    ],
)
def test_a_wrong_value_is_named_and_exits_2(arguments: list[str], environment: dict[str, str], needle: str) -> None:
    code, output, seen = _run(arguments, environment)
    assert code == 2
    assert not seen
    assert needle in output
    assert "Traceback" not in output


def test_an_unknown_setting_in_the_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "sample.yaml"
    config.write_text("prot: 2\n")
    code, output, _ = _run(["--config", str(config)])
    assert code == 2
    assert "prot: no such setting; did you mean port?" in output


def test_json_of_a_dash_is_standard_output_and_words_go_to_standard_error(free_port: int) -> None:
    command = [sys.executable, "-m", "splatfleet", "probe", "--grpc", f"127.0.0.1:{free_port}", "--timeout-s", "0.2"]
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 1
    assert json.loads(done.stdout)["alive"] is False
    assert str(free_port) in done.stderr


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "splatfleet" in result.output
