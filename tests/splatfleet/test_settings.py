"""Flags, environment and file say the same thing, in that order of weight, and a wrong value is one clear line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from click.testing import CliRunner
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.__main__ import VERBS, main
from splatfleet.settings import WRITES_FILE, WRITES_FOLDER, WRITES_PLOT, VerbSettings, read_config, verb
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


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.yaml", "port: 1\nport: 2\n", "port is given twice"),
        ("a.yaml", "url: [{one-b: 1, one_b: 2}]\n", "one_b is given twice"),
        ("a.yaml", "json-file: a\njson_file: b\n", "json_file is given twice"),
        ("a.json", '{"port": 1, "port": 2}', "port is given twice"),
        ("a.json", '{"url": [{"a": 1, "a": 2}]}', "a is given twice"),
        ("a.toml", "min-port = 1\nmin_port = 2\n", "min_port is given twice"),
        ("a.toml", "port = 1\nport = 2\n", "overwrite"),
        ("a.yaml", "url: " + "[" * 5000 + "]" * 5000, "is nested too deep"),
        ("a.json", '{"url": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deep"),
        ("a.toml", "url = " + "[" * 5000 + "]" * 5000, "is nested too deep"),
    ],
)
def test_a_file_of_twins_or_of_depth_is_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    config = tmp_path / name
    config.write_text(text)
    code, output, seen = _run(["--config", str(config)])
    assert (code, seen) == (2, [])
    assert f"--config {config}: " in output
    assert words in output


def test_yaml_may_merge_and_override(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("url:\n  - &one {a: x, b: y}\n  - {<<: *one, a: z}\n")
    assert read_config(config) == {"url": [{"a": "x", "b": "y"}, {"a": "z", "b": "y"}]}


def test_deep_json_by_flag_is_refused() -> None:
    code, output, _ = _run(["--url", "[" * 100_000 + "]" * 100_000])
    assert code == 2
    assert "--url: " in output
    assert "is nested too deep" in output


class Writer(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="WRITER_")

    json_file: Path | None = Field(None, alias="json", description="Where to.")
    log: Path | None = Field(None, description="Where to.", json_schema_extra=WRITES_FILE)
    report: Path | None = Field(None, description="Where to.", json_schema_extra=WRITES_FOLDER)
    plot: Path | None = Field(None, description="Where to.", json_schema_extra=WRITES_PLOT)


@pytest.mark.parametrize(
    ("flag", "path", "words"),
    [
        ("--json", "{tmp}", "is a folder, expected a file"),
        ("--log", "{tmp}", "is a folder, expected a file"),
        ("--plot", "{tmp}", "is a folder, expected a file"),
        ("--plot", "", "is a folder, expected a file"),
        ("--plot", "{tmp}/a.pdf", "expected a name that ends in .png or .svg"),
        ("--plot", "{tmp}/a", "expected a name that ends in .png or .svg"),
        ("--report", "{tmp}/file", "is a file, expected a folder"),
        ("--report", "{tmp}/file/below", "Not a directory"),
        ("--log", "{tmp}/file/below", "file is a file, expected a folder"),
        ("--log", "{tmp}/" + "a" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(tmp_path: Path, flag: str, path: str, words: str) -> None:
    (tmp_path / "file").write_text("")

    def run(settings: Writer) -> None:
        """Work."""
        raise AssertionError(f"the work began with {settings}")

    result = CliRunner().invoke(verb("writer", Writer, run, "writer"), [flag, path.format(tmp=tmp_path)])
    assert result.exit_code == 2, result.output
    assert flag in result.output
    assert words in result.output


def test_folders_above_an_output_are_made(tmp_path: Path) -> None:
    def run(settings: Writer) -> None:
        """Work."""
        assert settings.plot is not None
        assert settings.report is not None
        settings.plot.write_text("")
        (settings.report / "a").write_text("")

    arguments = ["--plot", str(tmp_path / "a" / "b.SVG"), "--report", str(tmp_path / "c" / "d")]
    result = CliRunner().invoke(verb("writer", Writer, run, "writer"), arguments)
    assert result.exit_code == 0, result.output


def test_a_full_disk_is_one_line_that_names_the_path(tmp_path: Path, free_port: int) -> None:
    script = (
        "import resource, sys; from splatfleet.__main__ import main; import renderer.client; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)); main(sys.argv[1:])"
    )
    path = tmp_path / "out.json"
    command = ["probe", "--grpc", f"127.0.0.1:{free_port}", "--timeout-s", "0.2", "--json", str(path)]
    done = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, check=False, cwd=REPOSITORY
    )
    assert done.returncode == 1
    assert f"Error: --json {path}: File too large" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_went_meanwhile_is_one_line_and_a_fault_elsewhere_is_none(tmp_path: Path) -> None:
    def run(settings: Writer) -> None:
        """Work."""
        assert settings.log is not None
        settings.log.parent.rmdir()
        settings.log.write_text("")

    path = tmp_path / "gone" / "log"
    result = CliRunner().invoke(verb("writer", Writer, run, "writer"), ["--log", str(path)])
    assert result.exit_code == 1
    assert result.output == f"Error: --log {path}: No such file or directory\n"

    def fail(settings: Writer) -> None:
        """Work."""
        assert settings.log is not None
        (settings.log.parent / "else").read_text()

    result = CliRunner().invoke(verb("writer", Writer, fail, "writer"), ["--log", str(tmp_path / "log")])
    assert isinstance(result.exception, FileNotFoundError)


def test_json_of_a_dash_is_standard_output_and_words_go_to_standard_error(free_port: int) -> None:
    command = [sys.executable, "-m", "splatfleet", "probe", "--grpc", f"127.0.0.1:{free_port}", "--timeout-s", "0.2"]
    done = subprocess.run([*command, "--json", "-"], capture_output=True, text=True, check=False, cwd=REPOSITORY)
    assert done.returncode == 1
    assert json.loads(done.stdout)["alive"] is False
    assert str(free_port) in done.stderr


def test_json_of_a_dash_goes_on_where_the_file_behind_standard_output_stands(tmp_path: Path) -> None:
    """A log with `>>` kept what was in it, and of a verb that writes more than once all is there."""

    def run(settings: Sample) -> None:
        """Work."""
        assert settings.json_file is not None
        for tick in range(2):
            settings.json_file.write_text(f"{tick}\n")

    path = tmp_path / "log"
    path.write_text("before\n")
    kept = os.dup(1)
    try:
        with path.open("a") as log:
            os.dup2(log.fileno(), 1)
            result = CliRunner().invoke(verb("sample", Sample, run, "sample"), ["--json", "-"])
            os.write(1, b"after\n")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    assert result.exit_code == 0, result.output
    assert path.read_text() == "before\n0\n1\nafter\n"


@pytest.mark.parametrize("name", list(VERBS))
def test_every_verb_has_help_with_an_example(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "splatfleet" in result.output
