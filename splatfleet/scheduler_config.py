"""`splatfleet scheduler-config`: the KubeSchedulerConfiguration that asks the extender, made or checked."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click
import yaml
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from fleet.digest import DIGEST_PATH
from fleet.labels import EXTENDER_PORT, GPU_RESOURCE
from scheduler_extender.scheduler_config import DEFAULT_WEIGHT, LEAST_WEIGHT
from splatfleet.addresses import check_url, parse_node_digests
from splatfleet.settings import UsageError, VerbSettings, verb

DIGESTS_HELP = "NAME=URL of a node's exporter, whose slices tell what pods can ask for; once per node."


class GenerateSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCHEDULER_CONFIG_")

    profile: list[str] = Field([], description="MIG profile or resource that pods ask for (1g.10gb); repeatable.")
    node_digest: list[str] = Field([], description=DIGESTS_HELP)
    url: str = Field(f"http://127.0.0.1:{EXTENDER_PORT}", description="Where kube-scheduler reaches the extender.")
    scheduler_name: str = Field("splatfleet", min_length=1, description="schedulerName of the pods that are ours.")
    weight: int = Field(
        DEFAULT_WEIGHT,
        ge=LEAST_WEIGHT,
        le=10_000,
        description="Weight of our scores: from 13 on their range outweighs all default plugins. "
        "Tell it to the extender, too (extender --weight).",
    )
    ca: Path | None = Field(None, description="PEM CA of the extender's certificate; becomes caData.")
    certificate_file: str = Field("", description="Client certificate as kube-scheduler's container sees it.")
    key_file: str = Field("", description="Key of --certificate-file, as seen there.")


def generate(settings: GenerateSettings) -> None:
    """Print a KubeSchedulerConfiguration for a second kube-scheduler that asks the extender."""
    from fleet.mig import MigError, MigProfile
    from scheduler_extender import scheduler_config

    resources = set(offered_resources(settings.node_digest))
    for text in settings.profile:
        try:
            resources.add(text if "/" in text else MigProfile.parse(text).resource)
        except MigError as error:
            raise UsageError(f"--profile: {error}") from error
    if not resources:
        raise UsageError("--profile or --node-digest is needed: without a resource kube-scheduler would send every pod")
    check_url(settings.url, "--url")
    if settings.url.startswith("https") and settings.ca is None:
        raise UsageError("--ca is needed with an https --url: without it kube-scheduler silently verifies nothing")
    wanted = scheduler_config.Wanted(
        settings.url,
        settings.scheduler_name,
        settings.weight,
        _base64(settings.ca),
        settings.certificate_file,
        settings.key_file,
    )
    configuration = scheduler_config.generate(resources, wanted)
    findings = [finding for finding in scheduler_config.lint(configuration) if finding.error]
    if findings:
        raise UsageError("; ".join(f"{finding.where} {finding.text}" for finding in findings))
    click.echo(yaml.safe_dump(configuration, sort_keys=False), nl=False)


class LintSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCHEDULER_CONFIG_", populate_by_name=True)

    file: Path = Field(description="A KubeSchedulerConfiguration (YAML or JSON).")
    node_digest: list[str] = Field([], description=DIGESTS_HELP)
    json_file: Path | None = Field(None, alias="json", description="Write the findings here.")


def lint(settings: LintSettings) -> int:
    """Say what is wrong with a KubeSchedulerConfiguration, and why; ends with 1 where anything must change."""
    from scheduler_extender import scheduler_config

    try:
        configuration = yaml.safe_load(settings.file.read_text())
    except RecursionError as error:
        raise UsageError(f"{settings.file}: is nested too deep") from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{settings.file}: {error}") from error
    findings = scheduler_config.lint(configuration, offered_resources(settings.node_digest))
    for finding in findings:
        click.echo(f"{'error' if finding.error else 'note'}: {finding.where} {finding.text}")
    errors = sum(finding.error for finding in findings)
    click.echo(f"{settings.file}: {errors} errors, {len(findings) - errors} notes")
    if settings.json_file is not None:
        settings.json_file.write_text(json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
    return 1 if errors else 0


def offered_resources(node_digests: Sequence[str]) -> list[str]:
    """The resources that nodes offer, by their digests; raises ClickException where one does not answer."""
    import httpx2

    from fleet.snapshot import parsed_profile
    from scheduler_extender.state import DigestError, read_digest

    found: set[str] = set()
    with httpx2.Client(timeout=10, trust_env=False) as client:
        for name, url in parse_node_digests(node_digests).items():
            try:
                digest = read_digest(client.get(url if url.endswith(DIGEST_PATH) else url + DIGEST_PATH).content)
            except (httpx2.HTTPError, httpx2.InvalidURL, DigestError) as error:
                raise click.ClickException(f"--node-digest {name}={url}: {error}") from error
            for gpu in digest.gpus:
                profiles = [parsed_profile(cut.profile) for cut in gpu.slices]
                found.update(profile.resource for profile in profiles if profile is not None)
                if not gpu.slices:
                    found.add(GPU_RESOURCE)
    return sorted(found)


def _base64(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return base64.b64encode(path.read_bytes()).decode()
    except OSError as error:
        raise UsageError(f"--ca {path}: {error.strerror}") from error


COMMAND = click.Group(
    "scheduler-config",
    commands=[
        verb("generate", GenerateSettings, generate, "splatfleet scheduler-config generate --profile 1g.10gb"),
        verb("lint", LintSettings, lint, "splatfleet scheduler-config lint scheduler.yaml", arguments=["file"]),
    ],
    help="Make or check the KubeSchedulerConfiguration that asks the extender.\n\n\b\n"
    "Example:\n  splatfleet scheduler-config generate --profile 1g.10gb > scheduler.yaml",
)
