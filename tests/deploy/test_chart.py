"""What the chart renders: valid, told apart, held to "restricted", and in step with our own commands and names."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import click
import pytest
import yaml

from fleet import labels
from fleet.mig import MigProfile
from scheduler_extender import scheduler_config
from splatfleet.__main__ import VERBS, main
from tests.deploy.conftest import CHART, EXAMPLES, FRONTS, NAMESPACE, Helm, Object, containers, name_of, pod_template
from tests.deploy.restricted import violations

every_example = pytest.mark.parametrize("example", ["", *EXAMPLES])


def pools_of(items: Sequence[Object]) -> list[Object]:
    """The Deployments of renderer pods."""
    deployments = [item for item in items if item["kind"] == "Deployment"]
    return [item for item in deployments if labels.POOL_LABEL in item["metadata"]["labels"]]


def test_there_are_five_examples() -> None:
    assert len(EXAMPLES) == 5


def test_lint(helm: Helm) -> None:
    for example in ("", *EXAMPLES):
        values = ("--values", f"examples/{example}.yaml") if example else ()
        done = helm.run("lint", "--strict", ".", *values)
        assert done.returncode == 0, done.stdout


@every_example
def test_every_object_has_its_name_labels_and_namespace(helm: Helm, example: str) -> None:
    items = helm.render(example)
    assert len({name_of(item) for item in items}) == len(items)
    cluster = {"ClusterRole", "ClusterRoleBinding", "Namespace", "PriorityClass", "CustomResourceDefinition",
               "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}  # fmt: skip
    for item in items:
        if item["kind"] == "CustomResourceDefinition":
            continue
        assert ("namespace" in item["metadata"]) == (item["kind"] not in cluster), name_of(item)
        found = item["metadata"]["labels"]
        recommended = {"name", "instance", "version", "component", "part-of", "managed-by"}
        assert {f"app.kubernetes.io/{key}" for key in recommended} <= set(found), name_of(item)
        assert len(item["metadata"]["name"]) <= 63


@every_example
def test_selectors_meet_their_pods(helm: Helm, example: str) -> None:
    items = helm.render(example)
    pods = [(item["metadata"]["namespace"], pod_template(item)["metadata"]["labels"], item)  # type: ignore[index]
            for item in items if pod_template(item)]  # fmt: skip
    for item in items:
        if item["kind"] not in ("Service", "PodDisruptionBudget", "Deployment", "DaemonSet"):
            continue
        selector = item["spec"]["selector"]
        selector = selector.get("matchLabels", selector)
        met = [
            pod for at, found, pod in pods if at == item["metadata"]["namespace"] and selector.items() <= found.items()
        ]
        assert len(met) == 1, f"{name_of(item)} selects {[name_of(pod) for pod in met]}"
        if item["kind"] == "Service":
            named = {port["name"] for one in containers(met[0]) for port in one.get("ports", ())}
            assert {port["targetPort"] for port in item["spec"]["ports"]} <= named


@every_example
def test_a_busy_node_makes_pods_slow_and_ends_none(helm: Helm, example: str) -> None:
    """Whoever may be ended has five minutes to start, a while to answer, and a minute of silence."""
    probed = 0
    for item in helm.render(example):
        for container in containers(item):
            if "livenessProbe" not in container:
                continue
            start, live = container["startupProbe"], container["livenessProbe"]
            assert start["periodSeconds"] * start["failureThreshold"] >= 300, container["name"]
            assert live.get("periodSeconds", 10) * live["failureThreshold"] >= 60, container["name"]
            assert (start["timeoutSeconds"] >= 5, live["timeoutSeconds"] >= 10) == (True, True), container["name"]
            probed += 1
    assert probed >= 4


@every_example
def test_commands_are_ours_with_flags_that_exist(helm: Helm, example: str) -> None:
    asked = set()
    for item in helm.render(example):
        for container in containers(item):
            arguments = [str(text).replace("$(NODE_NAME)", "gpu-1") for text in container.get("args", ())]
            command = [str(text) for text in container.get("command", ())]
            probe = container.get("livenessProbe", {}).get("exec", {}).get("command", [])
            assert not [word for word in probe if word.startswith("--scene")], "a pod that fetches it would be ended"
            for words in (arguments, command[1:] if command[:1] == ["splatfleet"] else [], probe[1:]):
                if words and words[0] in VERBS:
                    asked.add(words[0])
                    parse(words)
    assert {"exporter", "gateway", "probe"} <= asked


def parse(words: list[str]) -> None:
    """Parse as the command line would; raises click's error."""
    context = click.Context(main, info_name="splatfleet")
    command: click.Command | None = main
    while isinstance(command, click.Group):
        command = command.get_command(context, words[0])
        words = words[1:]
    assert command is not None
    command.make_context(command.name, list(words))


def test_a_flag_that_does_not_exist_is_found() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(["gateway", "--no-such-flag=1"])


@every_example
def test_ports_and_names_are_those_of_the_code(helm: Helm, example: str) -> None:
    ports = {
        labels.EXPORTER_PORT_NAME: labels.EXPORTER_PORT,
        labels.SCENE_AGENT_PORT_NAME: labels.SCENE_AGENT_PORT,
        "grpc": labels.TRITON_GRPC_PORT,
    }
    for item in helm.render(example):
        for container in containers(item):
            for port in container.get("ports", ()):
                if port["name"] in ports:
                    assert port["containerPort"] == ports[port["name"]]
            known = {value for name, value in vars(labels).items() if name.endswith("_ENV")}
            ours = {one["name"] for one in container.get("env", ()) if one["name"].startswith("SPLATFLEET_")}
            assert ours - {"SPLATFLEET_PROBE_GRPC"} <= known
            if container["name"] == "renderer":
                assert {port["containerPort"] for port in container["ports"]} == {
                    labels.TRITON_HTTP_PORT,
                    labels.TRITON_GRPC_PORT,
                    labels.TRITON_METRICS_PORT,
                }
        template = pod_template(item)
        if template and item["kind"] == "DaemonSet":
            assert template["metadata"]["labels"][labels.COMPONENT_LABEL] == labels.NODE_COMPONENT


@every_example
def test_pods_are_restricted_but_for_the_scene_cache(helm: Helm, example: str) -> None:
    found = {}
    for item in helm.render(example):
        template = pod_template(item)
        if template:
            found |= {
                f"{name_of(item)}: {text}": item["metadata"]["namespace"] for text in violations(template["spec"])
            }
    expected = {
        "volume scenes is a hostPath",
        "own-scenes: runAsNonRoot",
        "own-scenes: runAsUser is 0",
        "own-scenes: adds CHOWN",
    }
    assert {text.split(": ", 1)[1] for text in found} == (set() if example == "ephemeral-l40s" else expected)
    assert set(found.values()) <= {f"{NAMESPACE}-scenes"}
    if example != "ephemeral-l40s":
        spaces = [item for item in helm.render(example) if item["kind"] == "Namespace"]
        assert [space["metadata"]["name"] for space in spaces] == [f"{NAMESPACE}-scenes"]
        assert spaces[0]["metadata"]["labels"]["pod-security.kubernetes.io/warn"] == "restricted"


@every_example
def test_the_exporter_may_only_read_the_scenes(helm: Helm, example: str) -> None:
    mounts = [mount for item in helm.render(example) for one in containers(item) if one["name"] == "exporter"
              for mount in one["volumeMounts"]]  # fmt: skip
    assert mounts
    assert all(mount["readOnly"] for mount in mounts)


@every_example
def test_every_container_says_what_it_needs(helm: Helm, example: str) -> None:
    for item in helm.render(example):
        for container in containers(item):
            where = f"{name_of(item)} {container['name']}"
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
            assert ":latest" not in container["image"], where
            assert "@" in container["image"] or ":" in container["image"].rsplit("/", 1)[-1], where


@every_example
def test_roles_name_what_they_need(helm: Helm, example: str) -> None:
    for item in helm.render(example):
        if item["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in item["rules"]:
            assert "*" not in [*rule["apiGroups"], *rule["resources"], *rule["verbs"]], name_of(item)
            assert not {"secrets", "pods/exec", "pods/portforward"} & set(rule["resources"]), name_of(item)
            assert not {"delete", "deletecollection", "escalate", "bind", "impersonate"} & set(rule["verbs"])
            if "deployments/scale" in rule["resources"]:
                assert rule["resourceNames"], "the pools of this release and no others"


@every_example
def test_who_talks_to_the_api_server_has_a_token_and_nobody_else(helm: Helm, example: str) -> None:
    for item in helm.render(example):
        template = pod_template(item)
        if not template:
            continue
        speaks = any(
            "--kubernetes" in one.get("args", ()) or one["name"] == "kube-scheduler" for one in containers(item)
        )
        assert template["spec"]["automountServiceAccountToken"] is speaks, name_of(item)


@every_example
def test_all_pods_of_ours_are_under_a_network_policy(helm: Helm, example: str) -> None:
    items = helm.render(example)
    policies = [item for item in items if item["kind"] == "NetworkPolicy"]
    closed = [item for item in policies if "ingress" not in item["spec"] and "egress" not in item["spec"]]
    assert {item["metadata"]["namespace"] for item in closed} == {
        item["metadata"]["namespace"] for item in items if pod_template(item)
    }
    for item in items:
        template = pod_template(item)
        if template:
            selecting = [one for one in policies if selects(one, item["metadata"]["namespace"], template)]
            assert len(selecting) >= 2, f"{name_of(item)}: only closed"


def selects(policy: Object, namespace: str, template: Object) -> bool:
    selector, found = policy["spec"]["podSelector"], template["metadata"]["labels"]
    for expression in selector.get("matchExpressions", ()):
        value = found.get(expression["key"])
        if expression["operator"] == "In" and value not in expression["values"]:
            return False
        if expression["operator"] == "Exists" and value is None:
            return False
    wanted = selector.get("matchLabels", {})
    return policy["metadata"]["namespace"] == namespace and wanted.items() <= found.items()


@pytest.mark.parametrize("example", ["", "keda-h200", "canary-a100"])
def test_the_scheduler_is_told_what_our_own_command_says(helm: Helm, example: str) -> None:
    items = helm.render(example)
    maps = [item for item in items if item["kind"] == "ConfigMap" and "scheduler.yaml" in item["data"]]
    configuration = yaml.safe_load(maps[0]["data"]["scheduler.yaml"])
    pools = pools_of(items)
    limits = [container["resources"]["limits"] for pool in pools for container in containers(pool)]
    resources = {name for limit in limits for name in limit if name.startswith("nvidia.com/")}
    findings = scheduler_config.lint(configuration, resources)
    assert [finding for finding in findings if finding.error] == []
    assert not any("nobody" in finding.text or "no extender manages" in finding.text for finding in findings)
    wanted = scheduler_config.Wanted(configuration["extenders"][0]["urlPrefix"], "splatfleet")
    generated = scheduler_config.generate(resources, wanted)
    ours = configuration["extenders"][0]
    assert {k: v for k, v in generated["extenders"][0].items() if k != "tlsConfig"} == {
        k: v for k, v in ours.items() if k != "tlsConfig"
    }
    assert configuration["profiles"] == generated["profiles"]
    assert ours["tlsConfig"].get("caData") or ours["tlsConfig"]["caFile"]
    assert all(pool["spec"]["template"]["spec"]["schedulerName"] == "splatfleet" for pool in pools)


def test_the_certificates_of_the_chart_are_of_the_ca_in_the_configuration(helm: Helm) -> None:
    from cryptography import x509

    items = helm.render("")
    secrets = {item["metadata"]["name"]: item["data"] for item in items if item["kind"] == "Secret"}
    maps = [item for item in items if item["kind"] == "ConfigMap" and "scheduler.yaml" in item["data"]]
    tls = yaml.safe_load(maps[0]["data"]["scheduler.yaml"])["extenders"][0]
    ca = x509.load_pem_x509_certificate(base64.b64decode(tls["tlsConfig"]["caData"]))
    leaf = x509.load_pem_x509_certificate(base64.b64decode(secrets["try-splatfleet-extender-tls"]["tls.crt"]))
    leaf.verify_directly_issued_by(ca)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    host = tls["urlPrefix"].removeprefix("https://").rsplit(":", 1)[0]
    assert host in names.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--set", "gatway.replicas=2"], "gatway"),
        (["--set", "gpuPreset=b300"], "gpuPreset"),
        (["--set", "image.tag=latest"], "tag"),
        (["--set", "gateway.replicas=many"], "replicas"),
        (["--set", "pools.Renderer.minReplicas=1,pools.Renderer.maxReplicas=2"], "Renderer"),
        (["--set", "pools.canary.minReplicas=1"], "maxReplicas"),
        (["--set", "image.digests.gateway=sha256:12"], "gateway"),
        (["--set", "gpuPreset=cpu"], "asks for no GPU resource"),
        (["--set", "certificates.mode=existing"], "certificates.existingSecrets"),
        (["--set", "autoscaler.binSeconds=30"], "autoscaler.recorded"),
        (["--set", "autoscaler.prices.spot=cheap"], "spot"),
        (["--set", "autoscaler.placeholders.enabled=true,scaling.mode=keda"], "autoscaler.placeholders.enabled"),
        (["--set", "autoscaler.placeholders.priority=5"], "priority"),
        (["--set", "certificates.mode=certManager,scheduler.mode=configuration"], "certificates.caData"),
    ],
)
def test_what_cannot_be_meant_is_refused(helm: Helm, flags: list[str], said: str) -> None:
    done = helm.template(*flags)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize("preset", ["a100-40", "a100-80", "h100", "h200", "l40s"])
def test_presets_are_profiles_that_exist(helm: Helm, preset: str) -> None:
    pool = pools_of(helm.render("", "--set", f"gpuPreset={preset}"))[0]
    resource = next(name for name in containers(pool)[0]["resources"]["limits"] if name.startswith("nvidia.com"))
    if preset == "l40s":
        assert resource == labels.GPU_RESOURCE
    else:
        assert MigProfile.from_resource(resource)


def test_replicas_belong_to_the_autoscaler_and_to_one_writer(helm: Helm) -> None:
    for example in EXAMPLES:
        items = helm.render(example)
        pools = pools_of(items)
        assert all("replicas" not in pool["spec"] for pool in pools)
        scaled = [item for item in items if item["kind"] == "PredictiveAutoscaler"]
        active = [item for item in scaled if item["spec"]["mode"] == "Active"]
        others = [item for item in items if item["kind"] in ("ScaledObject", "HorizontalPodAutoscaler")]
        assert bool(active) != bool(others), "two writers on one target"
        assert len(active) + len(others) == len(pools)


def test_no_example_holds_a_credential() -> None:
    for path in (CHART / "values.yaml", *(CHART / "examples").glob("*.yaml")):
        text = path.read_text().lower()
        assert "password" not in text
        assert "secret_access_key" not in text


def test_the_commands_of_canary_and_blue_green(helm: Helm) -> None:
    """The flags of docs/operations.md, on the default values."""
    canary = ("pools.canary.image=example.com/renderer:0.2.0", "pools.canary.minReplicas=1,pools.canary.maxReplicas=4",
              "pools.canary.trafficWeight=5", "pools.renderer.trafficWeight=95")  # fmt: skip
    both = helm.render("", *(part for text in canary for part in ("--set", text)))
    assert [containers(pool)[0]["image"] for pool in pools_of(both)] == [
        "example.com/renderer:0.2.0",
        "splatfleet/renderer:0.1.0",
    ]
    gateway = next(one for item in both for one in containers(item) if one["name"] == "gateway")
    assert {"--pool=renderer", "--pool=canary", "--split=canary=5", "--split=renderer=95"} <= set(gateway["args"])
    after = helm.render("", *(part for text in (*canary, "pools.canary.enabled=false") for part in ("--set", text)))
    assert len(pools_of(after)) == 1
    assert not any(item["metadata"]["name"].endswith("canary") for item in after)


def test_a_gate_has_somebody_who_opens_it(helm: Helm) -> None:
    gated = pools_of(helm.render("", "--set", "renderer.scenesGate=true"))[0]["spec"]["template"]["spec"]
    assert gated["schedulingGates"] == [{"name": labels.SCENES_GATE}]
    refused = helm.template("--set", "renderer.scenesGate=true,scaling.mode=hpa")
    assert "the autoscaler opens the gate" in refused.stderr


def test_scene_labels_are_preferred_and_their_writer_may_write_nothing_else(helm: Helm) -> None:
    flags = "scheduler.mode=none,scheduler.sceneLabels.enabled=true,pools.renderer.scenes={garden,knot}"
    items = helm.render("", "--set", flags)
    affinity = pools_of(items)[0]["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    wanted = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
    keys = [term["preference"]["matchExpressions"][0]["key"] for term in wanted]
    assert keys == [f"{labels.SCENE_LABEL_PREFIX}{scene}" for scene in ("garden", "knot")]
    assert [term["weight"] for term in wanted] == [50, 50]
    writer = next(one for item in items for one in containers(item) if one["name"] == "autoscaler")
    assert "--scene-labels=64" in writer["args"]
    role = next(item for item in items if item["kind"] == "ClusterRole" and "autoscaler" in item["metadata"]["name"])
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch", "patch"]}]
    policies = {item["metadata"]["name"] for item in items if item["kind"] == "ValidatingAdmissionPolicy"}
    assert any("autoscaler" in name for name in policies)
    refused = helm.template("--set", "scheduler.sceneLabels.enabled=true,scaling.mode=hpa")
    assert "the autoscaler writes the labels" in refused.stderr


def test_placeholders_are_off_until_they_are_wanted(helm: Helm) -> None:
    usual = helm.render("")
    assert not any("placeholder" in word for item in usual for one in containers(item) for word in one.get("args", ()))
    assert not any("placeholder" in item["metadata"]["name"] for item in usual)
    pools = "autoscaler.placeholders.enabled=true,pools.renderer.autoscaler.warmup.nodeStartupSeconds=240"
    items = helm.render("", "--set", pools)
    made = next(item for item in items if item["kind"] == "PriorityClass")
    assert (made["value"], made["preemptionPolicy"]) == (-10, "Never")
    writer = next(one for item in items for one in containers(item) if one["name"] == "autoscaler")
    assert f"--placeholders={made['metadata']['name']}" in writer["args"]
    resource = next(item for item in items if item["kind"] == "PredictiveAutoscaler")
    assert resource["spec"]["warmup"]["nodeStartupSeconds"] == 240
    assert resource["spec"]["warmup"]["podBudgetBytes"] > 0


def test_keda_and_the_autoscaler_know_each_other(helm: Helm) -> None:
    """Certificates of the chart, each for its name; a trigger that uses them; and plain where nobody gave any."""
    from cryptography import x509

    items = helm.render("", "--set", "scaling.mode=keda")
    scaled = next(item for item in items if item["kind"] == "ScaledObject")
    trigger = scaled["spec"]["triggers"][0]
    assert trigger["metadata"]["enableTLS"] == "true"
    known = next(item for item in items if item["kind"] == "TriggerAuthentication")
    assert known["metadata"]["name"] == trigger["authenticationRef"]["name"]
    assert known["metadata"]["namespace"] == scaled["metadata"]["namespace"]
    of_keda = next(item for item in items if item["metadata"]["name"] == "try-splatfleet-keda-tls")
    assert of_keda["metadata"]["namespace"] == scaled["metadata"]["namespace"]
    assert {found["key"] for found in known["spec"]["secretTargetRef"]} <= set(of_keda["data"])
    shown = next(item for item in items if item["metadata"]["name"] == "try-splatfleet-autoscaler-tls")
    leaf = x509.load_pem_x509_certificate(base64.b64decode(shown["data"]["tls.crt"]))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert trigger["metadata"]["scalerAddress"].split(":")[0] in names.get_values_for_type(x509.DNSName)
    writer = next(one for item in items for one in containers(item) if one["name"] == "autoscaler")
    assert "--keda-client-ca=/etc/splatfleet/keda/ca.crt" in writer["args"]
    plain = helm.render("", "--set", "scaling.mode=keda,certificates.mode=certManager")
    assert not any(item["kind"] == "TriggerAuthentication" for item in plain)
    assert not any("--keda-certificate" in text for item in plain for one in containers(item)
                   for text in one.get("args", ()))  # fmt: skip


@pytest.mark.parametrize("front", FRONTS)
def test_a_front_leads_to_the_gateway(helm: Helm, front: str) -> None:
    items = helm.render("h100-mig", "--values", f"examples/fronts/{front}.yaml")
    service = next(item for item in items if item["kind"] == "Service" and item["metadata"]["name"].endswith("gateway"))
    routes = [item for item in items if item["kind"] in ("Ingress", "HTTPRoute")]
    if not routes:
        assert service["spec"]["type"] == "LoadBalancer"
        assert service["metadata"]["annotations"]
        return
    (rule,) = routes[0]["spec"]["rules"]
    if routes[0]["kind"] == "HTTPRoute":
        assert rule["timeouts"] == {"request": "0s"}
        assert rule["backendRefs"][0]["name"] == service["metadata"]["name"]
        return
    assert rule["http"]["paths"][0]["backend"]["service"]["name"] == service["metadata"]["name"]
    told = "".join(f"{key}={value};" for key, value in routes[0]["metadata"]["annotations"].items())
    assert "3600" in told or front == "traefik", "streams are not cut after a minute"
