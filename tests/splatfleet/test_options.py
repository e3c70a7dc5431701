"""No option of any verb takes what would hang, overflow or crash it: a usage error names option, value and range."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from splatfleet.__main__ import VERBS, main


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.output.startswith(("Error: ", "Usage: "))
    for word in words:
        assert word in result.output


def _number_options() -> Iterator[tuple[str, ...]]:
    """Every option of a float, with the words that lead to it and what is needed beside it."""
    for name in VERBS:
        command: click.Command = importlib.import_module(f"splatfleet.{name.replace('-', '_')}").COMMAND
        below = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        for part, leaf in below:
            for option in leaf.params:
                if isinstance(option, click.Option) and option.type is click.FLOAT:
                    yield (name, *([part] if part else []), option.opts[-1])


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("words", list(_number_options()), ids=" ".join)
def test_no_option_takes_what_is_not_finite(words: tuple[str, ...], value: str) -> None:
    *path, flag = words
    command: click.Command = main
    for word in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), word)
        assert found is not None
        command = found
    given = ["a" for option in command.params if isinstance(option, click.Argument)]
    refused(call(*path, *given, f"{flag}={value}"), f"{flag}: Input should be a finite number (got '{value}')")


SCALING = ("simulate", "scaling", "--trace", "none.csv")
PLACEMENT = ("simulate", "placement")
LOAD = ("load",)


@pytest.mark.parametrize(
    ("arguments", "flag", "value"),
    [
        (SCALING, "--service-cv", "11"),
        (SCALING, "--service", "3601"),
        (SCALING, "--service", "1e-9"),
        (SCALING, "--start-up", "86401"),
        (SCALING, "--start-up-sigma", "1e3"),
        (SCALING, "--mean-pods", "5001"),
        (SCALING, "--tick", "3601"),
        (SCALING, "--tick", "1e-9"),
        (SCALING, "--bin", "86401"),
        (SCALING, "--scenes", "1000001"),
        (SCALING, "--scenes-per-pod", "1000001"),
        (SCALING, "--scenes-per-node", "1000001"),
        (SCALING, "--scene-nodes", "1000001"),
        (("backtest", "--trace", "none.csv"), "--service-cv", "11"),
        (("backtest", "--trace", "none.csv"), "--start-up", "1e300"),
        (("simulate", "forecast", "--trace", "none.csv"), "--bin", "86401"),
        (PLACEMENT, "--arrivals", "100000001"),
        (PLACEMENT, "--burst-pods", "1000001"),
        (PLACEMENT, "--cache-gb", "1e300"),
        (("autoscaler",), "--interval-s", "86401"),
        (("autoscaler",), "--deadline-s", "1e12"),
        (("gateway",), "--hold-s", "1e12"),
        (("gateway",), "--deadline-s", "1e12"),
        (("exporter",), "--deadline-s", "1e12"),
        (("extender",), "--reservation-s", "1e12"),
        (("scene-agent", "--store", "a", "--catalogue", "b"), "--capacity-gb", "1e300"),
        (LOAD, "--duration", "1e12"),
        (LOAD, "--timeout-s", "1e12"),
        (LOAD, "--mean-rate", "1e12"),
        (LOAD, "--start-at", "-1"),
        (LOAD, "--start-at", "1e12"),
        (LOAD, "--seed", "-1"),
        (("demo",), "--seed", "-1"),
        (("bench", "scenes"), "--size-mb", "0"),
        (("bench", "scenes"), "--size-mb", "nan"),
        (("bench", "renderer"), "--size", "0x512"),
        (("bench", "renderer"), "--threads", "0"),
        (("pause", "renderer"), "--for", "99999999999d"),
        (("pause", "renderer"), "--for", "9" * 5000 + "d"),
        (("gateway", "--renderers-file", "a"), "--split", "renderer=1e308"),
        (("gateway", "--renderers-file", "a"), "--split", "renderer=nan"),
        (("extender",), "--node-digest", "a=http://["),
        (("autoscaler", "--pools", "a"), "--prometheus", "http://["),
        (("autoscaler", "--pools", "a", "--gateway", "http://a"), "--exporters", ""),
        (("backtest",), "--prometheus", "http://["),
        (("load",), "--gateway", "http://["),
        (("explain", "pod", "a/b"), "--extender", "http://["),
        (("scheduler-config", "generate", "--profile", "1g.10gb"), "--url", "http://["),
        (("scheduler-config", "generate", "--profile", "1g.10gb"), "--scheduler-name", ""),
        (("exporter",), "--triton", ""),
        (("exporter",), "--triton", "http://["),
        (("exporter",), "--dcgm", "http://["),
        (("backtest", "--trace", "none.csv"), "--plot", "/tmp"),
        (("backtest", "--trace", "none.csv"), "--plot", ""),
        (SCALING, "--report", __file__),
        (("autoscaler", "--pools", "a", "--gateway", "http://a"), "--decision-log", "/tmp"),
        (("extender", "--node-digest", "a=http://a"), "--decisions", "/tmp"),
        (("load",), "--frames", __file__),
    ],
)
def test_a_value_out_of_range_is_refused(arguments: tuple[str, ...], flag: str, value: str) -> None:
    refused(call(*arguments, f"{flag}={value}"), flag)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """Four days in bins of 5 minutes."""
    path = tmp_path / "made.csv"
    path.write_text("timestamp_s,requests\n" + "".join(f"{index * 300},{index % 288}\n" for index in range(4 * 288)))
    return path


@pytest.mark.parametrize("policies", ["", ",", " , "])
def test_no_policies_are_refused_with_those_that_there_are(trace: Path, policies: str) -> None:
    refused(call("simulate", "scaling", "--trace", trace, "--policies", policies), "--policies: ", "splatfleet, ")


@pytest.mark.parametrize("horizons", ["1e15", "600,86401"])
def test_a_horizon_beyond_the_trace_is_refused(trace: Path, horizons: str) -> None:
    refused(call("simulate", "forecast", "--trace", trace, "--horizons", horizons), "--horizons", "86400 s is the most")


def test_a_spread_without_end_is_refused_before_anything_is_computed(trace: Path) -> None:
    refused(call("backtest", "--trace", trace, "--service-cv", "inf"), "--service-cv", "finite number")
