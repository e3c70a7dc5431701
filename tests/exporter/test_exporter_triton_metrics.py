"""Triton's text in our units, and the ratio over a window."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from exporter.prometheus_text import ExpositionError, parse
from exporter.triton_metrics import OUTCOMES, RatioWindow, read_triton

PINNED = "nv_pinned_memory_pool_total_bytes 1\n"


def test_the_real_sample_in_our_units(triton_text: str) -> None:
    reading = read_triton(triton_text)
    stateful, stateless = reading.models
    assert stateful.model == "gaussian_renderer"
    assert stateful.queue_s == pytest.approx(1.667656)
    assert stateful.compute_s == pytest.approx((1953 + 1438786 + 10128) / 1e6)
    assert (stateful.pending, stateless.pending) == (3, 9)
    assert stateless.requests == {"success": 68, "backend": 2, "canceled": 0, "rejected": 25, "other": 0}
    assert set(stateful.requests) == set(OUTCOMES)
    assert reading.gpus == ()
    assert reading.budget_bytes is None


def test_parser_agrees_with_prometheus_client(triton_text: str) -> None:
    hostile = 'x_bytes{a="q\\"uote",b="back\\\\slash, new\\nline } {",c=""} 1e3 1700000000000\n'
    text = triton_text + hostile
    families = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    # Its parser appends `_total` to counters that lack it; Triton's do.
    theirs = sorted((s.name.removesuffix("_total"), sorted(s.labels.items()), s.value) for s in families)
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if line and line[0] != "#"}
    ours = sorted((s.name.removesuffix("_total"), sorted(s.labels.items()), s.value) for s in parse(text, names))
    assert ours == theirs
    assert len(ours) > 50


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html>\n", "line 1 is '<html>'"),
        ("ok 1\n{x=1} 2\n", "line 2"),
        ('x{a="1"} one\n', "number"),
        ("x\n", "line 1"),
        ('x{a="1"b="2"} 1\n', "quoted labels"),
        ("x{a=1} 1\n", "quoted labels"),
        ('x{a="1" 1\n', "line 1"),
        ("x 16676", "cut short"),
    ],
)
def test_malformed_text_names_the_line(text: str, says: str) -> None:
    with pytest.raises(ExpositionError, match=says.replace("{", r"\{")):
        list(parse(text, {"x", "ok"}))


@given(st.text(alphabet='x{}a="\\, 1\n#-.e', max_size=60))
def test_parser_only_ever_refuses_with_its_own_error(text: str) -> None:
    try:
        samples = list(parse(text, {"x", "a"}))
    except ExpositionError:
        return
    assert all(math.isfinite(sample.value) for sample in samples)


def test_a_text_of_another_server_is_refused() -> None:
    with pytest.raises(ExpositionError, match="8002"):
        read_triton("go_goroutines 12\n")
    with pytest.raises(ExpositionError, match="8002"):
        read_triton("")
    assert read_triton(PINNED).models == ()  # a Triton without a model is one all the same


def _model(queue: object, parts: tuple[object, object, object] = (1, 2_000_000, 3), extra: str = "") -> str:
    series = [f'nv_inference_queue_duration_us{{model="m"{extra}}} {queue}\n']
    for part, value in zip(("input", "infer", "output"), parts, strict=True):
        series.append(f'nv_inference_compute_{part}_duration_us{{model="m"{extra}}} {value}\n')
    return "".join(series)


def test_a_part_that_is_nan_leaves_the_seconds_out_not_wrong() -> None:
    (whole,) = read_triton(_model(5_000_000)).models
    assert (whole.queue_s, whole.compute_s) == (5.0, pytest.approx(2.000004))
    for text in (_model(5_000_000, (1, "NaN", 3)), _model("+Inf"), _model(5).split("nv_inference_compute_output")[0]):
        (model,) = read_triton(text).models
        assert (model.queue_s, model.compute_s) == (None, None)


def test_series_of_one_model_on_two_gpus_are_summed() -> None:
    (model,) = read_triton(_model(1_000_000, extra=',gpu_uuid="A"') + _model(2_000_000, extra=',gpu_uuid="B"')).models
    assert model.queue_s == 3.0
    assert model.compute_s == pytest.approx(4.000008)


def test_an_unknown_failure_reason_is_other() -> None:
    text = "".join(
        f'nv_inference_request_failure{{model="m",reason="{r}"}} {n}\n' for r, n in (("NEW", 2), ("OTHER", 1))
    )
    assert read_triton(text).models[0].requests == {"other": 3}


def test_resident_scenes_need_a_loaded_model_and_more_than_no_bytes() -> None:
    text = PINNED + "splatfleet_renderer_budget_bytes 500\n"
    text += "".join(
        f'splatfleet_renderer_scene_resident_bytes{{scene="{s}"}} {b}\n' for s, b in (("b", 7), ("a", 9), ("gone", 0))
    )
    loaded = text + 'nv_inference_request_success{model="gaussian_renderer"} 0\n'
    assert [(scene.id, scene.bytes) for scene in read_triton(loaded).resident] == [("a", 9), ("b", 7)]
    assert read_triton(loaded).budget_bytes == 500
    unloaded = text + 'nv_inference_request_failure{model="gaussian_renderer",reason="OTHER"} 0\n'
    assert read_triton(unloaded).resident == ()  # custom metrics outlive their model


def test_ratio_of_one_window() -> None:
    window = RatioWindow(30)
    window.observe(0, 100.0, 50.0)
    assert window.ratio(0) is None, "one scrape is no difference"
    window.observe(10, 104.0, 52.0)
    assert window.ratio(10) == pytest.approx(2.0)
    window.observe(20, 104.0, 54.0)
    assert window.ratio(20) == pytest.approx(1.0)
    window.observe(45, 110.0, 55.0)  # the increments of 10 s are out of the window, those of 20 s still in
    assert window.ratio(45) == pytest.approx(6.0 / 3.0)


def test_ratio_is_absent_where_nothing_was_computed_and_where_all_is_old() -> None:
    window = RatioWindow(30)
    for now_s in range(0, 50, 10):
        window.observe(now_s, 7.0, 7.0)
    assert window.ratio(40) is None
    window.observe(50, 8.0, 8.0)
    assert window.ratio(50) == 1.0
    assert window.ratio(81) is None


def test_a_restart_counts_from_zero() -> None:
    window = RatioWindow(30)
    window.observe(0, 100.0, 100.0)
    window.observe(10, 103.0, 101.0)
    window.observe(20, 1.0, 4.0)  # both counters started again
    assert window.ratio(20) == pytest.approx((3.0 + 1.0) / (1.0 + 4.0))
    # One counter may have passed its old value already: the other tells.
    late = RatioWindow(30)
    late.observe(0, 2.0, 100.0)
    late.observe(10, 3.0, 6.0)
    assert late.ratio(10) == pytest.approx(0.5)


def test_scrapes_rarer_than_the_window_leave_the_last_increment() -> None:
    window = RatioWindow(30)
    for minute, queue_s in enumerate((0.0, 60.0, 90.0)):
        window.observe(60.0 * minute, queue_s, 10.0 * minute)
    assert window.ratio(120) == pytest.approx(3.0)


@given(st.lists(st.tuples(st.floats(0.001, 8), st.floats(0, 100), st.floats(0.01, 100)), min_size=1, max_size=300))
def test_the_ring_is_bounded_and_keeps_every_increment(steps: list[tuple[float, float, float]]) -> None:
    window = RatioWindow(1e9)
    now_s, queue_s, compute_s = 0.0, 0.0, 0.0
    window.observe(0.0, 0.0, 0.0)
    for step_s, queue_delta_s, compute_delta_s in steps:
        now_s, queue_s, compute_s = now_s + step_s, queue_s + queue_delta_s, compute_s + compute_delta_s
        window.observe(now_s, queue_s, compute_s)
    assert window.ratio(now_s) == pytest.approx(queue_s / compute_s)
    busy = RatioWindow(30)
    for index in range(5_000):
        busy.observe(index * 0.01, float(index), float(index))
    assert busy.ratio(50) == pytest.approx(1.0)
    assert len(busy) <= 66
