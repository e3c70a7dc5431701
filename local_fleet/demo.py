"""The main job on one machine: real Triton pods render, our own cores scale and place them, traffic is replayed.

`play` plays one demo to its scorecard. Everything that it starts ends with it, also on an error and on Ctrl-C.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace

from rich.console import Console

from fleet.traffic import TraceError
from kube.errors import KubeError
from local_fleet.demo_settings import DemoSettings
from local_fleet.live import LiveView
from local_fleet.local_play import LocalPlay
from local_fleet.report import Run, write_report
from local_fleet.scorecard import Scorecard, read_scorecard, to_json
from local_fleet.scorecard_table import compare, render_table, spoilt
from local_fleet.stage import Stage
from local_fleet.triton_server import TritonUnavailable
from renderer.splats import SceneFileError


class DemoFailed(Exception):
    """A demo that could not be played to its end; one line with the reason."""


def play(settings: DemoSettings, console: Console | None = None) -> Scorecard:
    """Play a demo, print its scorecard, write what was asked for; raises DemoFailed.

    Everything that it starts has ended when this returns or raises, Ctrl-C included.
    """
    console = console or Console()
    try:
        other = read_scorecard(settings.compare) if settings.compare is not None else None
        if other is not None and settings.frame_size is None:
            settings = replace(settings, frame_size=other.frame_size)
        with contextlib.ExitStack() as stack:
            with LiveView(console) as view:
                run = _run_of(Stage(settings, view, stack))
            if settings.json_file is not None:
                settings.json_file.write_text(to_json(run.scorecard) + "\n")
            console.print(render_table(run.scorecard))
            if said := spoilt(run.scorecard):
                console.print(said, style="bold yellow", soft_wrap=True)
            if other is not None:
                console.print(compare(run.scorecard, other))
            if settings.report is not None:
                console.print(f"report: {write_report(settings.report, run)}", soft_wrap=True)
            return run.scorecard
    except (TraceError, SceneFileError, TritonUnavailable, KubeError, OSError, ValueError, RuntimeError) as error:
        raise DemoFailed(str(error)) from error


def _run_of(stage: Stage) -> Run:
    if not stage.settings.kubernetes:
        return LocalPlay(stage).to_the_end()
    from local_fleet.kubernetes.demo import KubernetesPlay

    return KubernetesPlay(stage).to_the_end()
