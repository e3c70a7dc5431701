"""`splatfleet scene catalogue`: a catalogue of the scenes that lie in a folder or in an object store."""

from __future__ import annotations

from pathlib import Path

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb


class CatalogueSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_CATALOGUE_")

    source: str = Field(description="Folder with scenes, or s3://BUCKET/PREFIX, gs://…, az://….")
    out: Path = Field(Path("catalogue.json"), description="File to write; one that is there is replaced.")
    all: bool = Field(False, description="Scenes below 1,000 Gaussians too.")


def catalogue(settings: CatalogueSettings) -> None:
    """Write the catalogue that agents, pods and the gateway read.

    Each scene has its id, address, digest, bytes and Gaussians there. Ids come from the folder's manifest.json, else
    from the path. Every scene is read whole, so that its digest is known; what is no scene is skipped and named. Exits
    with 1 where nothing was found.
    """
    from renderer.catalogue import save_catalogue
    from renderer.scene_source import OBJECT_STORES, SourceError

    scheme, separator, _ = settings.source.partition("://")
    if separator and scheme not in (*OBJECT_STORES, "file"):
        raise UsageError(f"source {settings.source!r}: expected a folder, s3://…, gs://… or az://…")
    if "@" in settings.source.split("/", 3)[2:3] or "?" in settings.source:
        raise UsageError("source carries a user or a query; credentials come by file or environment")
    try:
        if scheme in OBJECT_STORES and separator:
            from renderer.scene_listing import list_catalogue

            found, skipped = list_catalogue(settings.source, settings.all)
        else:
            from renderer.scene_folder import build_catalogue

            found, skipped = build_catalogue(Path(settings.source.removeprefix("file://")), settings.all)
    except (ValueError, SourceError, OSError) as error:
        raise click.ClickException(str(error)) from error
    for line in skipped:
        click.echo(line, err=True)
    if not found.entries:
        raise click.ClickException(f"no scene in {settings.source}; nothing was written")
    try:
        save_catalogue(found, settings.out)
    except OSError as error:
        raise click.ClickException(f"{settings.out}: {error.strerror or error}") from error
    total_bytes = sum(entry.source_bytes or 0 for entry in found.entries.values())
    click.echo(f"{settings.out}: {len(found.entries)} scenes, {total_bytes:,} bytes, {len(skipped)} skipped")


COMMAND = verb(
    "catalogue",
    CatalogueSettings,
    catalogue,
    "splatfleet scene catalogue scenes/\nsplatfleet scene catalogue s3://scenes/v1 --out catalogue.json",
    arguments=["source"],
)
