"""What KEDA hears from us, over real gRPC."""

from __future__ import annotations

import filecmp
import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import grpc
import psutil
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from autoscaler.answers import METRIC, UNKNOWN, served_replicas
from autoscaler.decision import Decision, Reason
from autoscaler.external_scaler import SERVICE, ExternalScalerServer
from autoscaler.keda import externalscaler_pb2 as messages
from autoscaler.loop import Memory, Mode, Override, Pool, Triggers, tick
from autoscaler.scrape import DirectScrape
from autoscaler.shadow import ShadowCluster
from kube.tls import TlsError, TlsFiles
from simulator.rivals.hpa import average_value_replicas
from tests.autoscaler.wire import Wire, serving
from tests.kubernetes_autoscaler.keda_client import KedaClient

REPOSITORY = Path(__file__).resolve().parents[2]


def decision(replicas: int, current: int = 1, reason: Reason = Reason.FORECAST, pool: str = "renderer") -> Decision:
    return Decision(pool, replicas, reason, f"{reason}: because", current=current)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def server(registry: CollectorRegistry) -> Iterator[ExternalScalerServer]:
    made = ExternalScalerServer(("127.0.0.1", 0), 30.0, registry)
    yield made
    made.close()


@pytest.fixture
def keda(server: ExternalScalerServer) -> Iterator[KedaClient]:
    made = KedaClient(f"127.0.0.1:{server.port}", {"pool": "renderer"})
    yield made
    made.close()


def refused(keda: KedaClient) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        keda.poll()
    return caught.value


def only_known_come_in(
    server: ExternalScalerServer, known: grpc.ChannelCredentials, stranger: grpc.ChannelCredentials, host: str
) -> None:
    """A caller with a certificate gets the count, one without is refused; ends the server."""
    try:
        server.post([decision(6)])
        for credentials, welcome in ((known, True), (stranger, False)):
            keda = KedaClient(f"127.0.0.1:{server.port}", {"pool": "renderer"}, credentials, host)
            try:
                if welcome:
                    assert keda.poll().value == 6.0
                else:
                    assert refused(keda).code() is grpc.StatusCode.UNAVAILABLE
            finally:
                keda.close()
    finally:
        server.close()


def test_keda_gets_the_count_of_the_decision(server: ExternalScalerServer, keda: KedaClient) -> None:
    server.post([decision(7, current=3), decision(2, pool="batch")])
    assert keda.spec() == (f"s0-{METRIC}", 1.0)
    metric = keda.poll()
    assert (metric.value, metric.active) == (7.0, True)
    server.post([decision(0, current=1, reason=Reason.SURPLUS)])
    metric = keda.poll()
    assert (metric.value, metric.active) == (0.0, False)


def test_nothing_decided_yet_is_an_error_and_the_target_is_known_all_the_same(keda: KedaClient) -> None:
    assert keda.spec() == (f"s0-{METRIC}", 1.0)
    error = refused(keda)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "nothing was decided yet" in error.details()


@pytest.mark.parametrize("reason", sorted(UNKNOWN))
def test_what_is_not_known_is_an_error_and_never_a_zero(
    server: ExternalScalerServer, keda: KedaClient, reason: Reason
) -> None:
    server.post([decision(0, reason=reason)])
    error = refused(keda)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert reason in error.details()
    with pytest.raises(grpc.RpcError):
        keda.stub.IsActive(keda.reference, timeout=5)


def test_a_pause_is_answered_with_the_count_that_is_held(server: ExternalScalerServer, keda: KedaClient) -> None:
    server.post([decision(4, current=4, reason=Reason.PAUSED)])
    assert keda.poll().value == 4.0


def test_an_old_decision_is_an_error(registry: CollectorRegistry) -> None:
    server = ExternalScalerServer(("127.0.0.1", 0), 0.2, registry)
    keda = KedaClient(f"127.0.0.1:{server.port}", {"pool": "renderer"})
    try:
        server.post([decision(5)])
        assert keda.poll().value == 5.0
        time.sleep(0.3)
        assert "old" in refused(keda).details()
    finally:
        keda.close()
        server.close()


@pytest.mark.parametrize(
    ("metadata", "code", "said"),
    [
        ({"pool": "elsewhere"}, grpc.StatusCode.NOT_FOUND, "pool 'elsewhere' is not decided for, only renderer"),
        ({}, grpc.StatusCode.INVALID_ARGUMENT, "metadata pool is missing"),
        ({"pool": "renderer", "pol": "x"}, grpc.StatusCode.INVALID_ARGUMENT, "metadata pol does not exist"),
        ({"pool": "renderer", "tolerance": "ten"}, grpc.StatusCode.INVALID_ARGUMENT, "tolerance is 'ten', expected"),
        ({"pool": "renderer", "tolerance": "nan"}, grpc.StatusCode.INVALID_ARGUMENT, "tolerance is 'nan', expected"),
    ],
)
def test_a_wrong_trigger_is_told_what_is_wrong(
    server: ExternalScalerServer, metadata: dict[str, str], code: grpc.StatusCode, said: str
) -> None:
    server.post([decision(1)])
    keda = KedaClient(f"127.0.0.1:{server.port}", metadata)
    try:
        error = refused(keda)
        assert error.code() is code
        assert said in error.details()
    finally:
        keda.close()


def test_an_unknown_metric_is_refused(server: ExternalScalerServer, keda: KedaClient) -> None:
    server.post([decision(1)])
    with pytest.raises(grpc.RpcError) as caught:
        keda.stub.GetMetrics(messages.GetMetricsRequest(scaledObjectRef=keda.reference, metricName="other"), timeout=5)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_the_push_stream_tells_the_state_at_once_and_every_change(
    server: ExternalScalerServer, keda: KedaClient
) -> None:
    told: list[bool] = []

    def listen() -> None:
        with suppress(grpc.RpcError):  # how it ends
            told.extend(keda.stream_active())

    thread = threading.Thread(target=listen)
    server.post([decision(0, reason=Reason.NO_DATA)])  # not known: not sent
    thread.start()
    try:
        for replicas, changes in ((0, 1), (0, 1), (3, 2), (4, 2), (0, 3)):
            server.post([decision(replicas)])
            end_s = time.monotonic() + 20
            while len(told) < changes:
                assert time.monotonic() < end_s, told
                time.sleep(0.02)
    finally:
        keda.close()
        thread.join()
    assert told == [False, True, False]


def test_the_stream_of_targets_agrees_with_the_target(keda: KedaClient) -> None:
    stream = keda.stub.StreamMetricSpec(keda.reference)
    first = next(iter(stream))
    stream.cancel()
    assert first == keda.stub.GetMetricSpec(keda.reference)


def test_streams_that_are_cut_leave_nothing_behind(server: ExternalScalerServer, keda: KedaClient) -> None:
    """A KEDA that is killed with its streams open: the others are answered, and no connection stays."""
    server.post([decision(3)])
    clients = [KedaClient(f"127.0.0.1:{server.port}", {"pool": "renderer"}) for _ in range(30)]
    for client in clients:
        assert next(iter(client.stub.StreamIsActive(client.reference))).result
        assert next(iter(client.stub.StreamMetricSpec(client.reference))).metricSpecs
    assert _connections(server.port) >= 30
    for client in clients:
        client.close()
    server.post([decision(4)])
    assert keda.poll().value == 4.0
    end_s = time.monotonic() + 30.0
    while _connections(server.port) > 1:  # the poll's own
        assert time.monotonic() < end_s, "connections of clients that are gone stay open"
        time.sleep(0.05)


def _connections(port: int) -> int:
    """Established ones that the server holds."""
    found = psutil.Process().net_connections("tcp")
    return sum(c.status == psutil.CONN_ESTABLISHED and bool(c.laddr) and c.laddr.port == port for c in found)


def test_health_follows_the_loop(server: ExternalScalerServer, keda: KedaClient) -> None:
    stub = health_pb2_grpc.HealthStub(keda.channel)

    def status(name: str) -> int:
        return int(stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status)

    assert status(SERVICE) == health_pb2.HealthCheckResponse.NOT_SERVING
    server.post([decision(1)])
    deadline_s = time.monotonic() + 10
    while status(SERVICE) != health_pb2.HealthCheckResponse.SERVING:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert status("") == health_pb2.HealthCheckResponse.SERVING


def test_five_hundred_triggers_are_answered_at_once(
    server: ExternalScalerServer, keda: KedaClient, registry: CollectorRegistry
) -> None:
    server.post([decision(index % 40, pool=f"pool-{index}") for index in range(500)])
    requests = [
        messages.GetMetricsRequest(
            scaledObjectRef=messages.ScaledObjectRef(scalerMetadata={"pool": f"pool-{index}", "tolerance": "0"}),
            metricName=METRIC,
        )
        for index in range(500)
    ]
    calls = [keda.stub.GetMetrics.future(request, timeout=30) for request in requests]
    assert [call.result().metricValues[0].metricValue for call in calls] == [index % 40 for index in range(500)]
    labels = {"verb": "GetMetrics", "code": "OK"}
    assert registry.get_sample_value("splatfleet_autoscaler_keda_requests_total", labels) == 500


def test_an_address_that_is_taken_is_named(server: ExternalScalerServer) -> None:
    with pytest.raises(OSError, match=str(server.port)):
        ExternalScalerServer(("127.0.0.1", server.port), 30.0, CollectorRegistry())


@settings(deadline=None)
@given(desired=st.integers(0, 500), current=st.integers(0, 500), tolerance=st.sampled_from((0.0, 0.05, 0.1, 0.2)))
def test_an_hpa_reaches_at_least_what_was_decided_in_one_sync(desired: int, current: int, tolerance: float) -> None:
    value = served_replicas(desired, current, tolerance)
    assert value >= desired
    outside = current == 0 or abs(1.0 - value / current) > tolerance + 1e-9
    reached = math.ceil(value) if outside else current
    assert reached >= desired
    if desired > current or outside:
        assert reached <= max(desired, math.floor(current * (1 + tolerance)) + 1)
    if tolerance == 0.0:
        assert reached == desired


@settings(deadline=None)
@given(desired=st.integers(0, 300), current=st.integers(1, 300))
def test_the_hpa_with_its_default_tolerance_never_stays_below_the_decision(desired: int, current: int) -> None:
    value = served_replicas(desired, current)
    reached = average_value_replicas(float(value), 1.0, current)
    assert reached >= desired
    if current <= 9:
        assert reached == desired or abs(desired - current) <= 0.1 * current


def pems(folder: Path, ca: trustme.CA, name: str) -> TlsFiles:
    made = ca.issue_cert(name)
    made.private_key_pem.write_to_path(folder / "tls.key")
    made.cert_chain_pems[0].write_to_path(folder / "tls.crt")
    return TlsFiles(folder / "tls.crt", folder / "tls.key")


def test_certificates_are_read_again_and_a_bad_one_changes_nothing(tmp_path: Path, registry: CollectorRegistry) -> None:
    first, second = trustme.CA(), trustme.CA()
    files = pems(tmp_path, first, "scaler.test")
    server = ExternalScalerServer(("127.0.0.1", 0), 30.0, registry, files)

    def ask(ca: trustme.CA) -> float:
        credentials = grpc.ssl_channel_credentials(ca.cert_pem.bytes())
        keda = KedaClient(f"127.0.0.1:{server.port}", {"pool": "renderer"}, credentials, "scaler.test")
        try:
            return keda.poll().value
        finally:
            keda.close()

    expires = "splatfleet_autoscaler_keda_certificate_not_after_timestamp_seconds"
    try:
        assert (registry.get_sample_value(expires) or 0.0) > time.time(), "for the alert"
        server.post([decision(6)])
        assert ask(first) == 6.0
        with pytest.raises(grpc.RpcError):
            ask(second)
        pems(tmp_path, second, "scaler.test")
        assert ask(second) == 6.0
        (tmp_path / "tls.crt").write_text("no certificate")
        assert ask(second) == 6.0
    finally:
        server.close()


def test_a_caller_without_a_certificate_is_refused_where_one_is_asked_for(
    tmp_path: Path, registry: CollectorRegistry
) -> None:
    ca = trustme.CA()
    files = pems(tmp_path, ca, "scaler.test")
    ca.cert_pem.write_to_path(tmp_path / "ca.crt")
    mutual = TlsFiles(files.certificate, files.key, tmp_path / "ca.crt")
    server = ExternalScalerServer(("127.0.0.1", 0), 30.0, registry, mutual)
    own = ca.issue_cert("keda.test")
    good = grpc.ssl_channel_credentials(
        ca.cert_pem.bytes(), own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes()
    )
    only_known_come_in(server, good, grpc.ssl_channel_credentials(ca.cert_pem.bytes()), "scaler.test")


def test_unusable_certificates_are_named_at_the_start(tmp_path: Path, registry: CollectorRegistry) -> None:
    (tmp_path / "tls.crt").write_text("no certificate")
    (tmp_path / "tls.key").write_text("no key")
    files = TlsFiles(tmp_path / "tls.crt", tmp_path / "tls.key")
    with pytest.raises(TlsError, match=r"tls\.crt"):
        ExternalScalerServer(("127.0.0.1", 0), 30.0, registry, files)


def test_the_generated_modules_are_those_of_the_proto_file(tmp_path: Path) -> None:
    folder = REPOSITORY / "autoscaler/keda"
    flags = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", *flags, "autoscaler/keda/externalscaler.proto"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    names = sorted(path.name for path in (tmp_path / "autoscaler/keda").iterdir())
    assert names == sorted(path.name for path in folder.iterdir() if "_pb2" in path.name)
    _, differing, missing = filecmp.cmpfiles(folder, tmp_path / "autoscaler/keda", names, shallow=False)
    assert (differing, missing) == ([], []), "make them anew: the command is at the head of externalscaler.proto"


def test_the_autoscaler_serves_keda() -> None:
    """The process itself: no demand yet is an error for KEDA, and the process ends when it is told."""
    command = [sys.executable, "-m", "splatfleet", "autoscaler", "--pools", "renderer", "--interval-s", "0.2"]
    flags = ["--gateway", "http://127.0.0.1:1", "--keda-listen", "127.0.0.1:0"]
    child = subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    try:
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line.startswith("external scaler listens on 127.0.0.1:")
        keda = KedaClient(line.split()[-1], {"pool": "renderer"})
        assert refused(keda).code() is grpc.StatusCode.UNAVAILABLE
        keda.close()
        child.terminate()
        child.communicate(timeout=40)
        assert child.returncode == 0
    finally:
        child.kill()
        child.wait()


class Asked:
    """What KEDA is told of a pool, a tick a second; after eight seconds a pause holds what stands. Two leads are 16."""

    def __init__(self, wire: Wire, server: ExternalScalerServer, keda: KedaClient) -> None:
        self._wire, self._server, self._keda = wire, server, keda
        pause = Override(until_s=2000.0, from_s=1008.5, paused=True)
        pool = Pool("renderer", tick_s=1.0, startup_s=7.0, service_s=0.5, max_replicas=60, overrides=(pause,))
        pool = replace(pool, mode=Mode.REACTIVE, triggers=Triggers(utilization=1.0))  # two requests/s a pod
        source = DirectScrape(wire.url, [], bin_s=1.0)
        self.close = source.close
        self._cluster, self._memory = ShadowCluster([pool], source, carried_out=True), Memory()
        self._second = self._requests = 0

    def tick(self, ready: int | None, rate_per_s: int = 16) -> float:
        """The count that KEDA is told; `ready` is what the gateway counts, None: it does not answer."""
        self._wire.status = 500 if ready is None else 200
        self._second += 1
        self._requests += rate_per_s
        self._wire.pages["/metrics"] = (
            f'splatfleet_gateway_requests_total{{pool="renderer",scene="ball"}} {self._requests}\n'
            'splatfleet_gateway_pending_requests{pool="renderer"} 0\n'
            f'splatfleet_gateway_pods{{pool="renderer",state="ready"}} {ready}\n'
        )
        self._server.post(tick(self._cluster, self._memory, 1000.0 + self._second))
        return self._keda.poll().value

    def until_held(self, ready: int, rate_per_s: int) -> list[float]:
        """What KEDA is told, once a rate is known."""
        told = []
        for _ in range(8):
            with suppress(grpc.RpcError):
                told.append(self.tick(ready, rate_per_s))
        return told


@pytest.fixture
def asked(server: ExternalScalerServer, keda: KedaClient) -> Iterator[Asked]:
    with serving() as wire, closing(Asked(wire, server, keda)) as made:
        yield made


def test_without_a_cluster_a_pod_that_is_unready_for_a_moment_is_no_step_down(asked: Asked) -> None:
    asked.until_held(20, 16)
    assert [asked.tick(ready) for ready in (20, 17, 17, 20, 18, None, 17)] == [20.0] * 7


def test_without_a_cluster_pods_that_start_stand_and_those_that_never_come_are_given_up(asked: Asked) -> None:
    assert set(asked.until_held(20, 80)) == {40.0}
    told = [asked.tick(20) for _ in range(20)]
    assert told[:7] == [40.0] * 7
    assert told[-1] == 20.0


def test_without_a_cluster_a_small_step_up_is_told_until_its_pods_are_there(asked: Asked) -> None:
    """At every tick the smallest count that an HPA does not ignore: KEDA may ask at any of them."""
    told = asked.until_held(20, 42)
    assert len(told) > 3
    assert set(told) == {23.0}


def test_without_a_cluster_a_count_that_somebody_lowered_is_learned(asked: Asked) -> None:
    asked.until_held(20, 16)
    assert asked.tick(20) == 20.0
    told = [asked.tick(13) for _ in range(20)]
    assert told[:16] == [20.0] * 16
    assert told[-1] == 13.0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--keda-listen", "nowhere"], "--keda-listen: 'nowhere' is no address"),
        (["--keda-certificate", "x.pem"], "there is no --keda-listen"),
        (["--keda-listen", "127.0.0.1:0", "--keda-key", "x.pem"], "give both"),
        (["--keda-listen", "127.0.0.1:0", "--keda-key", "no.pem", "--keda-certificate", "no.pem"], "no.pem"),
    ],
)
def test_wrong_flags_are_named(flags: list[str], said: str) -> None:
    command = [
        sys.executable,
        "-m",
        "splatfleet",
        "autoscaler",
        "--pools",
        "renderer",
        "--gateway",
        "http://127.0.0.1:1",
    ]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, cwd=REPOSITORY, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
