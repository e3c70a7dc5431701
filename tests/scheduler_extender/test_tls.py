"""TLS as kube-scheduler meets it: its certificate is asked for, and files that change need no restart."""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
import trustme

from kube.tls import ReloadingContext, TlsError, TlsFiles
from tests.scheduler_extender.conftest import pod

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates; not found")


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


def make_ca(folder: Path, name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{name}.key"]
    openssl("req", "-x509", *key, "-out", f"{name}.crt", "-days", "2", "-subj", f"/CN={name}", cwd=folder)


def make_certificate(folder: Path, name: str, ca: str, common_name: str) -> None:
    """`name`.crt and .key, swapped into place whole as Kubernetes does with a mounted secret."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "new.key"]
    subject = ["-subj", f"/CN={common_name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl("req", "-x509", *key, "-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", *subject, "-days", "2",
            "-out", "new.crt", cwd=folder)  # fmt: skip
    (folder / "new.key").rename(folder / f"{name}.key")
    (folder / "new.crt").rename(folder / f"{name}.crt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for ca in ("server-ca", "client-ca", "other-ca"):
        make_ca(folder, ca)
    make_certificate(folder, "server", "server-ca", "first")
    make_certificate(folder, "client", "client-ca", "kube-scheduler")
    make_certificate(folder, "stranger", "other-ca", "stranger")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "certificates"))


def splatfleet(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "splatfleet", "extender", "--node-digest", "gpu-1=http://127.0.0.1:9"]
    return subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    flags = ["--tls-certificate", "server.crt", "--tls-key", "server.key", "--client-ca", "client-ca.crt"]
    placed = [str(folder / flag) if not flag.startswith("--") else flag for flag in flags]
    process = splatfleet("--listen", "127.0.0.1:0", *placed)
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said.startswith("extender listens on https://127.0.0.1:")
        yield said.split()[-1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
    finally:
        process.kill()
        process.communicate()


def client_context(folder: Path, certificate: str | None = "client") -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(folder / "server-ca.crt"))
    if certificate is not None:
        context.load_cert_chain(folder / f"{certificate}.crt", folder / f"{certificate}.key")
    return context


def filtered(url: str, context: ssl.SSLContext) -> list[str]:
    with httpx2.Client(base_url=url, verify=context, timeout=10, trust_env=False) as client:
        body = {"Pod": pod("uid-1"), "Nodes": None, "NodeNames": ["gpu-1"]}
        names: list[str] = client.post("/filter", json=body).json()["NodeNames"]
        return names


def shown_name(url: str, context: ssl.SSLContext) -> str:
    """The common name that the server shows a new connection."""
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with (
        socket.create_connection(address, timeout=10) as raw,
        context.wrap_socket(raw, server_hostname=address[0]) as tls,
    ):
        certificate = tls.getpeercert()
        assert certificate is not None
        return str(dict(part[0] for part in certificate["subject"])["commonName"])  # type: ignore[arg-type, misc]


def test_only_with_a_certificate_of_the_ca_and_with_new_ones_without_a_restart(url: str, folder: Path) -> None:
    assert filtered(url, client_context(folder)) == ["gpu-1"]
    for certificate in (None, "stranger"):
        with pytest.raises(httpx2.HTTPError):
            filtered(url, client_context(folder, certificate))
    with pytest.raises(httpx2.HTTPError):
        filtered(url.replace("https", "http"), client_context(folder))
    address = ("127.0.0.1", int(url.rsplit(":", 1)[1]))
    with socket.create_connection(address, timeout=10) as silent:  # no handshake: cut, and nobody waits for it
        assert filtered(url, client_context(folder)) == ["gpu-1"]
        context = client_context(folder)
        assert shown_name(url, context) == "first"
        (folder / "server.key").write_text("half a file")
        time.sleep(2.5)
        assert shown_name(url, context) == "first"
        make_certificate(folder, "server", "server-ca", "second")
        (folder / "other-ca.crt").rename(folder / "client-ca.crt")
        end_s = time.monotonic() + 15
        while shown_name_or_refused(url, client_context(folder, "stranger")) != "second":
            assert time.monotonic() < end_s
            time.sleep(0.1)
        assert silent.recv(10) == b""
    # The client CA was swapped too: who was a stranger is known now, and the other way round.
    assert filtered(url, client_context(folder, "stranger")) == ["gpu-1"]
    with pytest.raises(httpx2.HTTPError):
        filtered(url, client_context(folder))


def test_certificates_out_of_their_time_or_for_another_name(url: str, folder: Path) -> None:
    """Both sides refuse what does not hold now, and the process takes the next one without a restart."""
    ca, now = trustme.CA(), datetime.now(UTC)
    day, ages = timedelta(days=1), timedelta(days=9)
    times = {
        "expired": (now - ages, now - day),
        "not yet valid": (now + day, now + ages),
        "good": (now - day, now + ages),
    }
    made = {
        name: ca.issue_cert("127.0.0.1", common_name=name, not_before=since, not_after=until)
        for name, (since, until) in times.items()
    }
    made["another name"] = ca.issue_cert("127.0.0.9", common_name="another name")
    ca.cert_pem.write_to_path(folder / "server-ca.crt")
    ca.cert_pem.write_to_path(folder / "new-client-ca.crt")
    made["good"].private_key_and_cert_chain_pem.write_to_path(folder / "pair.pem")
    (folder / "new-client-ca.crt").rename(folder / "client-ca.crt")
    expected = {"expired": "expired", "not yet valid": "not yet valid", "another name": "mismatch", "good": ""}
    for name, said in expected.items():
        for suffix, pem in (("key", made[name].private_key_pem), ("crt", made[name].cert_chain_pems[0])):
            pem.write_to_path(folder / f"new.{suffix}")
            (folder / f"new.{suffix}").rename(folder / f"server.{suffix}")
        end_s = time.monotonic() + 30.0
        while (heard := refusal(url, folder / "server-ca.crt", folder / "pair.pem")) != said:
            assert time.monotonic() < end_s, f"{name}: {heard!r}"
            time.sleep(0.1)
    for name in ("expired", "not yet valid"):
        made[name].private_key_and_cert_chain_pem.write_to_path(folder / "pair.pem")
        assert refusal(url, folder / "server-ca.crt", folder / "pair.pem") == "refused by the server"


def refusal(url: str, ca: Path, pair: Path) -> str:
    """Why a call with this certificate does not come through, in a word or two; empty where it does."""
    context = ssl.create_default_context(cafile=str(ca))
    context.load_cert_chain(pair)
    try:
        return "" if filtered(url, context) == ["gpu-1"] else "answered otherwise"
    except httpx2.HTTPError as error:
        said = str(error)
        words = ("expired", "not yet valid", "mismatch")
        by_us = "certificate verify failed" in said
        return next((word for word in words if by_us and word in said), "refused by the server" if not by_us else said)


def shown_name_or_refused(url: str, context: ssl.SSLContext) -> str:
    try:
        filtered(url, context)
        return shown_name(url, context)
    except (httpx2.HTTPError, OSError):
        return "refused"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--listen", "0.0.0.0:0"), "--client-ca"),
        (("--listen", "[::]:0"), "--client-ca"),
        (("--tls-key", "k"), "--tls-certificate is needed"),
        (("--client-ca", "c"), "--tls-key is needed"),
        (("--tls-certificate", "absent", "--tls-key", "absent"), "absent"),
    ],
)
def test_refusals_to_start(arguments: tuple[str, ...], message: str) -> None:
    process = splatfleet(*arguments)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert message in errors
    assert "Traceback" not in errors


def test_told_so_it_listens_everywhere() -> None:
    process = splatfleet("--listen", "0.0.0.0:0", "--allow-anyone")
    assert process.stdout is not None
    try:
        assert process.stdout.readline().startswith("extender listens on http://0.0.0.0:")
    finally:
        process.terminate()
        process.communicate(timeout=40)


def test_bad_files_say_which(folder: Path) -> None:
    with pytest.raises(TlsError, match="stranger"):
        ReloadingContext.of(TlsFiles(folder / "server.crt", folder / "stranger.key"))
    with pytest.raises(TlsError, match="client CA"):
        ReloadingContext.of(TlsFiles(folder / "server.crt", folder / "server.key", folder / "server.key"))


@pytest.mark.parametrize("days", [2, 20_000])  # the second ends beyond 2050, where the time has another form
def test_the_end_of_a_certificate_is_read(tmp_path: Path, days: int) -> None:
    make_ca(tmp_path, "ca")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "one.key"]
    openssl("req", "-x509", *key, "-out", "one.crt", "-days", str(days), "-subj", "/CN=one", cwd=tmp_path)
    chain = tmp_path / "chain.crt"
    chain.write_text("a comment\n" + (tmp_path / "one.crt").read_text() + (tmp_path / "ca.crt").read_text())
    assert TlsFiles(chain, tmp_path / "one.key").not_after_s() == pytest.approx(time.time() + days * 86_400, abs=60)
    chain.write_text("no certificate")
    assert math.isnan(TlsFiles(chain, tmp_path / "one.key").not_after_s())
