"""The KubeSchedulerConfiguration that makes kube-scheduler ask us, and what is wrong with one that somebody wrote."""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from fleet.labels import EXTENDER_PORT, GPU_RESOURCE, MIG_RESOURCE_PREFIX
from fleet.mig import MigError, MigProfile

API_VERSION = "kubescheduler.config.k8s.io/v1"
KIND = "KubeSchedulerConfiguration"
# Default plugins add up to 1,200 points (weights 3 + 2 + 2 + 2 + 1 + 1 + 1, each 0 to 100); an extender's 0 to 10 is
# multiplied by 10 and its weight.
LEAST_WEIGHT = 13
DEFAULT_WEIGHT = 15  # five steps of a score outweigh what the default plugins can add for most pods (contest.py)
LONGEST_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a generated configuration says beside what it must."""

    url: str = f"http://127.0.0.1:{EXTENDER_PORT}"
    scheduler_name: str = "splatfleet"
    weight: int = DEFAULT_WEIGHT
    ca_data: str = ""  # base64 of PEM
    certificate_file: str = ""  # as kube-scheduler sees it
    key_file: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or may be; `error` ones make a lint fail."""

    error: bool
    where: str
    text: str


def generate(resources: Iterable[str], wanted: Wanted) -> dict[str, Any]:
    """A configuration for a scheduler of its own, beside the cluster's; `resources` are what pods of ours ask for."""
    extender: dict[str, Any] = {
        "urlPrefix": wanted.url,
        "filterVerb": "filter",
        "prioritizeVerb": "prioritize",
        "preemptVerb": "preempt",
        "weight": wanted.weight,
        "nodeCacheCapable": True,
        "ignorable": True,
        "httpTimeout": "500ms",
        "managedResources": [{"name": name, "ignoredByScheduler": False} for name in sorted(set(resources))],
    }
    if urlsplit(wanted.url).scheme == "https":
        tls = {"caData": wanted.ca_data, "certFile": wanted.certificate_file, "keyFile": wanted.key_file}
        extender |= {"enableHTTPS": True, "tlsConfig": {key: value for key, value in tls.items() if value}}
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "profiles": [{"schedulerName": wanted.scheduler_name, "percentageOfNodesToScore": 100}],
        "extenders": [extender],
    }


def lint(configuration: Any, found_resources: Iterable[str] = ()) -> list[Finding]:
    """What is wrong, each with its reason; `found_resources` are what nodes offer, where that is known."""
    if not isinstance(configuration, Mapping) or configuration.get("kind") != KIND:
        return [Finding(True, "kind", f"this is no {KIND}")]
    findings = list(_profiles(configuration))
    extenders = configuration.get("extenders")
    if not isinstance(extenders, list) or not extenders:
        return [*findings, Finding(True, "extenders", "there is none: kube-scheduler will not ask anybody")]
    managed: Counter[str] = Counter()
    for place, extender in enumerate(extenders):
        where = f"extenders[{place}]"
        if not isinstance(extender, Mapping):
            findings.append(Finding(True, where, f"is {type(extender).__name__}, expected a mapping"))
            continue
        findings += _extender(extender, where)
        findings += _transport(extender, where)
        findings += _resources(extender, where)
        managed.update(_names(extender))
    findings += _others(configuration, len(extenders))
    for name, times in managed.items():
        if times > 1:
            text = f"{name} is managed {times} times: kube-scheduler refuses names that are not unique"
            findings.append(Finding(True, "extenders", text))
    for name in sorted(set(found_resources) - managed.keys()):
        text = f"nodes offer {name} and no extender manages it: pods that ask for it are placed without us"
        findings.append(Finding(False, "extenders", text))
    return findings


def _profiles(configuration: Mapping[str, Any]) -> Iterable[Finding]:
    if configuration.get("apiVersion") != API_VERSION:
        yield Finding(True, "apiVersion", f"is {configuration.get('apiVersion')!r}, expected {API_VERSION}")
    profiles = configuration.get("profiles")
    named = [profile for profile in profiles if isinstance(profile, Mapping)] if isinstance(profiles, list) else []
    for profile in named or [{}]:
        name = profile.get("schedulerName", "default-scheduler")
        share = profile.get("percentageOfNodesToScore", configuration.get("percentageOfNodesToScore"))
        if share != 100:
            yield Finding(
                True,
                f"profiles {name}: percentageOfNodesToScore",
                f"is {share or 'not set'}, set 100: else a sample of 420 of 1,000 nodes is scored, and the node with "
                "the scene may not be in it",
            )
        if name == "default-scheduler":
            yield Finding(
                False,
                "profiles default-scheduler",
                "extenders belong to every profile of a process and switch opportunistic batching off for all of "
                "them: run a second kube-scheduler for renderer pods",
            )


def _extender(extender: Mapping[str, Any], where: str) -> Iterable[Finding]:
    weight = extender.get("weight", 0)
    if not extender.get("filterVerb"):
        yield Finding(True, f"{where}.filterVerb", "is missing: pods would be sent to nodes whose slices are promised")
    if not extender.get("prioritizeVerb"):
        yield Finding(True, f"{where}.prioritizeVerb", "is missing: nothing would be scored and nothing reserved")
    elif not isinstance(weight, int) or weight < LEAST_WEIGHT:
        yield Finding(
            True,
            f"{where}.weight",
            f"is {weight!r}, set {LEAST_WEIGHT} or more: our whole range is 100 x weight points and the default "
            "plugins add up to 1,200",
        )
    if extender.get("bindVerb"):
        yield Finding(True, f"{where}.bindVerb", "is set: this extender does not bind, and only one may")
    if not extender.get("preemptVerb"):
        yield Finding(False, f"{where}.preemptVerb", "is missing: preemption would not spare the warmest pods")
    if extender.get("nodeCacheCapable") is not True:
        yield Finding(
            True,
            f"{where}.nodeCacheCapable",
            "is not true: whole Node objects cost a hundred times the bytes, and the other scorers see idle nodes",
        )
    if extender.get("ignorable") is not True:
        yield Finding(True, f"{where}.ignorable", "is not true: while we are away no renderer pod would be placed")
    timeout_s = seconds(extender.get("httpTimeout"))
    if timeout_s is None or not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        yield Finding(
            True,
            f"{where}.httpTimeout",
            f"is {extender.get('httpTimeout', 'not set (5s)')}, set 500ms: scheduling waits so long when we hang",
        )


def _others(configuration: Mapping[str, Any], extenders: int) -> Iterable[Finding]:
    """Who else adds points or is asked after us, which an extender that is told its weight does not reckon with."""
    if extenders > 1:
        text = f"there are {extenders}: one that is asked after ours sees those alone that can win by our scores"
        yield Finding(False, "extenders", f"{text}; put ours last, or start it with --weight 0")
    profiles = configuration.get("profiles")
    for profile in profiles if isinstance(profiles, list) else ():
        if not isinstance(profile, Mapping):
            continue
        name = profile.get("schedulerName", "default-scheduler")
        plugins = profile.get("plugins")
        weighed = isinstance(plugins, Mapping) and any(plugins.get(point) for point in ("score", "multiPoint"))
        arguments = profile.get("pluginConfig")
        named = [item.get("name") for item in arguments or () if isinstance(item, Mapping)]
        if weighed or "NodeAffinity" in named:
            text = "changes what its plugins can add to a node: start the extender with --weight 0"
            yield Finding(False, f"profiles {name}: plugins", text)


def _transport(extender: Mapping[str, Any], where: str) -> Iterable[Finding]:
    url = urlsplit(str(extender.get("urlPrefix", "")))
    if url.scheme not in ("http", "https") or not url.hostname:
        yield Finding(True, f"{where}.urlPrefix", f"is {extender.get('urlPrefix')!r}, expected http(s)://HOST:PORT")
        return
    tls = extender.get("tlsConfig")
    tls = tls if isinstance(tls, Mapping) else {}
    if url.scheme == "http" and not extender.get("enableHTTPS"):
        if not _is_loopback(url.hostname):
            yield Finding(
                True, f"{where}.urlPrefix", f"sends pods over http to {url.hostname}: use https, or run beside us"
            )
        return
    if tls.get("insecure"):
        yield Finding(True, f"{where}.tlsConfig.insecure", "is true: anybody could answer in our place")
    elif not (tls.get("caData") or tls.get("caFile")):
        yield Finding(True, f"{where}.tlsConfig.caData", "is missing: kube-scheduler then silently verifies nothing")
    if not (tls.get("certData") or tls.get("certFile")):
        yield Finding(False, f"{where}.tlsConfig.certFile", "is missing: an extender with --client-ca would refuse")


def _resources(extender: Mapping[str, Any], where: str) -> Iterable[Finding]:
    names = _names(extender)
    if not names:
        yield Finding(
            True,
            f"{where}.managedResources",
            "is empty: every pod would be sent here, the extender's own too, which can keep it from starting",
        )
    for item in extender.get("managedResources") or ():
        if isinstance(item, Mapping) and item.get("ignoredByScheduler"):
            yield Finding(
                True,
                f"{where}.managedResources {item.get('name')}",
                "is ignoredByScheduler: NodeResourcesFit must go on counting, for us when we are away",
            )
    for name in names:
        try:
            known = name == GPU_RESOURCE or name.startswith(f"{GPU_RESOURCE}.") or MigProfile.from_resource(name)
        except MigError as error:
            yield Finding(True, f"{where}.managedResources {name}", str(error))
            continue
        if not known:
            text = f"is none of {GPU_RESOURCE} and {MIG_RESOURCE_PREFIX}*: we know nothing of it"
            yield Finding(False, f"{where}.managedResources {name}", text)


def _names(extender: Mapping[str, Any]) -> list[str]:
    resources = extender.get("managedResources")
    items = resources if isinstance(resources, list) else []
    return [str(item["name"]) for item in items if isinstance(item, Mapping) and item.get("name")]


def seconds(text: Any) -> float | None:
    """The seconds of a Go duration (`500ms`, `1.5s`, `1m`); None where it is none."""
    units = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "us": 1e-6, "ns": 1e-9}
    parts = re.findall(r"([0-9]+(?:\.[0-9]*)?)(ms|us|ns|s|m|h)", str(text))
    if not parts or "".join(number + unit for number, unit in parts) != str(text):
        return None
    return sum(float(number) * units[unit] for number, unit in parts)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
