"""`splatfleet doctor`: is this installation right, and if not, what is to be done."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.labels import COMPONENT_LABEL, EXPORTER_BESIDE_LABEL, POOL_LABEL
from splatfleet.kubectl import ClusterSettings, Json, connect
from splatfleet.settings import UsageError, verb

if TYPE_CHECKING:
    from autoscaler.permissions import Permission
    from kube.connection import Connection
    from splatfleet.doctor_checks import Finding

PART_OF = "app.kubernetes.io/part-of=splatfleet"
TIMEOUT_S = 5.0


class DoctorSettings(ClusterSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_DOCTOR_", populate_by_name=True)

    prometheus: str | None = Field(None, description="URL of the Prometheus that the autoscaler reads.")
    service_account: str | None = Field(
        None, description="NAMESPACE/NAME whose rights are looked at; found by itself, else your own."
    )
    output: Literal["table", "json"] = Field("table", description="How to print.", json_schema_extra={"short": "-o"})


class _Looks:
    """Every look at the cluster; one that is refused or fails is a finding of its own."""

    def __init__(self, connection: Connection, settings: DoctorSettings) -> None:
        from kube.objects import PREDICTIVE_AUTOSCALERS

        self.connection = connection
        self.settings = settings
        self.now_s = time.time()
        self.autoscalers = self._tried(PREDICTIVE_AUTOSCALERS.path(settings.namespace)) or []
        self.renderers = self._tried("/api/v1/pods", POOL_LABEL) or []
        self.deployments = self._tried("/apis/apps/v1/deployments", PART_OF) or []

    def get(self, path: str, selector: str = "", field: str = "") -> Json:
        query = {"labelSelector": selector, "fieldSelector": field}
        body = self.connection.get(path, {key: value for key, value in query.items() if value}, TIMEOUT_S)
        found: Json = json.loads(body)
        return found

    def items(self, path: str, selector: str = "", field: str = "") -> list[Json]:
        found: list[Json] = self.get(path, selector, field).get("items") or []
        return found

    def absent_or(self, path: str) -> Json | None:
        """An object, or None where there is none."""
        from kube.errors import Refused

        try:
            return self.get(path)
        except Refused as error:
            if error.absent:
                return None
            raise

    def _tried(self, path: str, selector: str = "") -> list[Json] | None:
        from kube.errors import KubeError

        with contextlib.suppress(KubeError):
            return self.items(path, selector)
        return None

    def component(self, name: str) -> Json | None:
        """The Deployment of one of our components."""
        for found in self.deployments:
            if (found["metadata"].get("labels") or {}).get(COMPONENT_LABEL) == name:
                return found
        return None


def run(settings: DoctorSettings) -> int:
    """Check an installation on a cluster: each finding with its fix; exits with 1 where something is wrong."""
    from kube.errors import KubeError

    if settings.service_account is not None and settings.service_account.count("/") != 1:
        raise UsageError(f"--service-account {settings.service_account!r}: expected NAMESPACE/NAME")
    connection = connect(settings)
    try:
        looks = _Looks(connection, settings)
        findings = list(_findings(looks))
    except KubeError as error:
        raise click.ClickException(f"{connection.host}: {error}") from error
    if settings.output == "json":
        click.echo(json.dumps([dataclasses.asdict(found) for found in findings], indent=1))
    else:
        for found in findings:
            click.echo(f"{found.state.upper():<5} {found.check:<14} {found.said}")
            if found.fix and found.state in ("fail", "warn"):
                click.echo(f"{'':<20} fix: {found.fix}")
    return 1 if any(found.state == "fail" for found in findings) else 0


def _findings(looks: _Looks) -> Iterator[Finding]:
    from splatfleet import doctor_checks as checks

    yield checks.version(looks.get("/version"))  # without it nothing else would answer
    every: list[tuple[str, Callable[[_Looks], Iterable[Finding]]]] = [
        ("crd", _crd),
        ("components", lambda looks: checks.components(looks.deployments)),
        ("rbac", _rbac),
        ("placeholders", _placeholders),
        ("leader", _leader),
        ("autoscalers", lambda looks: checks.autoscalers(looks.autoscalers)),
        ("second writer", _writers),
        ("scheduler", _scheduler),
        ("gpu nodes", lambda looks: checks.nodes(looks.items("/api/v1/nodes"), _node_pods(looks))),
        ("prometheus", _prometheus),
        ("certificates", _certificates),
        ("clocks", _clocks),
    ]
    for name, check in every:
        yield from _guarded(name, check, looks)


def _guarded(name: str, check: Callable[[_Looks], Iterable[Finding]], looks: _Looks) -> Iterator[Finding]:
    """What a check finds; one that may not look says so, and the others go on."""
    from kube.errors import KubeError, Refused
    from splatfleet.doctor_checks import Finding

    try:
        yield from list(check(looks))
    except Refused as error:
        if error.status != 403:
            raise
        yield Finding(name, "skip", f"you may not look: {error}")
    except KubeError as error:
        yield Finding(name, "fail", str(error), "is the API server well? kubectl get --raw /readyz?verbose")


def _crd(looks: _Looks) -> Iterable[Finding]:
    from autoscaler.resource import FIELDS
    from splatfleet import doctor_checks as checks

    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/predictiveautoscalers.splatfleet.io"
    return checks.definition(looks.absent_or(path), FIELDS)


def _rbac(looks: _Looks) -> Iterable[Finding]:
    from autoscaler.permissions import PERMISSIONS
    from splatfleet import doctor_checks as checks

    who, denied = _denied(looks, PERMISSIONS)
    return [checks.permissions(who, denied)]


def _placeholders(looks: _Looks) -> Iterable[Finding]:
    from autoscaler.permissions import PLACEHOLDERS
    from splatfleet import doctor_checks as checks

    priority_class = checks.placeholder_class(looks.component("autoscaler"))
    if not priority_class:
        return [checks.placeholders("", "", [], False)]
    who, denied = _denied(looks, [PLACEHOLDERS])
    known = looks.absent_or(f"/apis/scheduling.k8s.io/v1/priorityclasses/{priority_class}") is not None
    return [checks.placeholders(priority_class, who, denied, known)]


def _denied(looks: _Looks, permissions: Sequence[Permission]) -> tuple[str, list[str]]:
    """Asks the API server for each permission: of the autoscaler's account where we may, else of ourselves.

    Whom it asked about, and verb and resource of what that one may not do.
    """
    from kube.errors import Refused

    account = looks.settings.service_account
    found = looks.component("autoscaler")
    if account is None and found is not None:
        name = found["spec"]["template"]["spec"].get("serviceAccountName", "default")
        account = f"{found['metadata']['namespace']}/{name}"
    targets = {
        (item["metadata"]["namespace"], (item["spec"].get("scaleTargetRef") or {}).get("name", ""))
        for item in looks.autoscalers
    } or {(looks.settings.namespace or looks.connection.namespace, "")}
    home = (account or "").partition("/")[0] or looks.connection.namespace
    denied = []
    for needed in permissions:
        for verb_ in needed.verbs:
            attributes = {"group": needed.group, "resource": needed.resource, "verb": verb_}
            if needed.subresource:
                attributes["subresource"] = needed.subresource
            for namespace, target in sorted(targets):
                place = _place(needed.name, namespace, target, home, verb_)
                try:
                    allowed = _review(looks, attributes | place, account)
                except Refused as error:
                    if error.status != 403 or account is None:
                        raise
                    account, allowed = None, _review(looks, attributes | place, None)
                if not allowed:
                    denied.append(
                        f"{verb_} {needed.name}" + (f" in {place['namespace']}" if "namespace" in place else "")
                    )
    who = f"service account {account}" if account else "you (no service account was asked about)"
    return who, list(dict.fromkeys(denied))


def _place(resource: str, namespace: str, target: str, home: str, verb_: str) -> dict[str, str]:
    """Where a permission is needed: a name only where a role may limit it to names."""
    if resource == "nodes":
        return {}
    if resource == "leases":
        return {"namespace": home} | ({} if verb_ == "create" else {"name": "splatfleet-autoscaler"})
    if resource == "deployments/scale" and target:
        return {"namespace": namespace, "name": target}
    return {"namespace": namespace}


def _review(looks: _Looks, attributes: dict[str, str], account: str | None) -> bool:
    group, kind, plural = "authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews"
    spec: Json = {"resourceAttributes": attributes}
    if account is not None:
        kind, plural = "SubjectAccessReview", "subjectaccessreviews"
        namespace, _, name = account.partition("/")
        spec["user"] = f"system:serviceaccount:{namespace}:{name}"
        spec["groups"] = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    body = json.dumps({"apiVersion": group, "kind": kind, "spec": spec}).encode()
    answer = json.loads(looks.connection.request("POST", f"/apis/{group}/{plural}", body, deadline_s=TIMEOUT_S))
    return bool((answer.get("status") or {}).get("allowed"))


def _leader(looks: _Looks) -> Iterable[Finding]:
    from splatfleet import doctor_checks as checks

    found = looks.component("autoscaler")
    namespace = found["metadata"]["namespace"] if found is not None else None
    namespace = namespace or looks.settings.namespace or looks.connection.namespace
    path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/splatfleet-autoscaler"
    return [checks.leader(looks.absent_or(path), looks.now_s)]


def _writers(looks: _Looks) -> Iterable[Finding]:
    from splatfleet import doctor_checks as checks

    writers = []
    scaled = looks.absent_or("/apis/keda.sh/v1alpha1/scaledobjects") or {}
    for kind, items in (
        ("HorizontalPodAutoscaler", looks.items("/apis/autoscaling/v2/horizontalpodautoscalers")),
        ("ScaledObject", scaled.get("items") or []),
    ):
        for item in items:
            target = ((item.get("spec") or {}).get("scaleTargetRef") or {}).get("name", "")
            writers.append((kind, item["metadata"]["namespace"], item["metadata"]["name"], target))
    return checks.second_writers(looks.autoscalers, writers)


def _scheduler(looks: _Looks) -> Iterable[Finding]:
    from splatfleet import doctor_checks as checks

    maps = looks.items("/api/v1/configmaps", PART_OF)
    with contextlib.suppress(Exception):  # a managed cluster shows nothing of its own scheduler
        maps += looks.items("/api/v1/namespaces/kube-system/configmaps")
    return checks.schedulers(maps, looks.renderers)


def _node_pods(looks: _Looks) -> list[Json]:
    of_nodes = looks.items("/api/v1/pods", f"{COMPONENT_LABEL}=node")
    return of_nodes or looks.items("/api/v1/pods", EXPORTER_BESIDE_LABEL)


def _prometheus(looks: _Looks) -> Iterable[Finding]:
    from fleet import metrics
    from splatfleet.doctor_checks import Finding, prometheus

    url = looks.settings.prometheus
    if url is None:
        return [Finding("prometheus", "skip", "give --prometheus URL to have its targets looked at")]
    import httpx2

    answered: dict[str, float | None] = {}
    names = [
        metrics.GATEWAY_REQUESTS.name,
        metrics.TRITON_COMPUTE_SECONDS.name,
        metrics.SCENE_CACHE_FREE.name,
        metrics.EXTENDER_REQUESTS.name,
        metrics.AUTOSCALER_DESIRED.name,
    ]
    try:
        with httpx2.Client(timeout=TIMEOUT_S, trust_env=False) as client:
            for name in names:
                reply = client.get(f"{url.rstrip('/')}/api/v1/query", params={"query": f"count({name})"})
                reply.raise_for_status()
                result: Any = reply.json()["data"]["result"]
                answered[name] = float(result[0]["value"][1]) if result else None
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError) as error:
        return list(prometheus(answered, f"{url}: {type(error).__name__}: {error}"))
    return list(prometheus(answered, ""))


def _certificates(looks: _Looks) -> Iterable[Finding]:
    from splatfleet import doctor_checks as checks

    secrets = looks.items("/api/v1/secrets", PART_OF, "type=kubernetes.io/tls")
    return checks.certificates(secrets, looks.now_s)


def _clocks(looks: _Looks) -> Iterable[Finding]:
    from splatfleet import doctor_checks as checks

    leases = looks.items("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases")
    return checks.clocks(_server_time_s(looks.settings), leases, time.time())


def _server_time_s(settings: DoctorSettings) -> float | None:
    """The API server's clock, by the header Date of an answer, which is of whole seconds."""
    import httpx2

    from kube.access import load_access

    access = load_access(settings.kubeconfig, settings.context)
    authorization = access.authorization()
    headers = {"Authorization": authorization} if authorization else {}
    verify = access.context if access.context is not None else True
    try:
        with httpx2.Client(verify=verify, proxy=access.proxy, timeout=TIMEOUT_S, trust_env=False) as client:
            date = client.get(f"{access.host}/version", headers=headers).headers.get("date", "")
        return parsedate_to_datetime(date).timestamp() + 0.5
    except (httpx2.HTTPError, ValueError):
        return None


COMMAND = verb(
    "doctor",
    DoctorSettings,
    run,
    "splatfleet doctor\nsplatfleet doctor --prometheus http://127.0.0.1:9090 --service-account splats/autoscaler",
)
