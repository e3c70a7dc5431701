"""`splatfleet scene publish`: a scene into an object store and into the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click
from pydantic import Field
from pydantic_settings import SettingsConfigDict

from splatfleet.settings import UsageError, VerbSettings, verb

UPS = {"+y": (0.0, 1.0, 0.0), "-y": (0.0, -1.0, 0.0), "+z": (0.0, 0.0, 1.0), "-z": (0.0, 0.0, -1.0)}


class PublishSettings(VerbSettings):
    model_config = SettingsConfigDict(env_prefix="SPLATFLEET_SCENE_PUBLISH_")

    path: Path = Field(description="Scene file (.ply, .splat, .ksplat, .spz, .sog, packed) or SOG folder.")
    to: str = Field(description="Folder to upload to: s3://BUCKET/PREFIX, gs://…, az://… or file:///….")
    catalogue: Path = Field(description="Scene catalogue (JSON) to write the entry into; made where there is none.")
    id: str = Field("", description="Scene id; else made from the file's name.")
    packed: bool = Field(False, description="Upload our packed layout instead of the file, so that no node parses it.")
    replace: bool = Field(False, description="Let an id that is there stand for other bytes from now on.")
    up: Literal["+y", "-y", "+z", "-z", ""] = Field("", description="Which way is up in the scene; else -y.")
    credit: str = Field("", description="Whom to name wherever the scene is shown.")
    price_class: str = Field("", description="What its owner pays for, as billing names it.")


def publish(settings: PublishSettings) -> None:
    """Check a scene, upload it and write it into the catalogue.

    Exits with 0 when it is there (also when it was before), 1 when the scene, the upload or the catalogue is at fault,
    2 when an argument is. Credentials come from AWS_SHARED_CREDENTIALS_FILE, the AWS_* environment or the instance.
    """
    from fleet.scene import SceneIdError, parse_scene_id, slug
    from renderer import publish as publishing
    from renderer.catalogue import CatalogueError
    from renderer.scene_source import OBJECT_STORES, SourceError
    from renderer.splats import SceneFileError

    if settings.to.partition("://")[0] not in (*OBJECT_STORES, "file"):
        raise UsageError(f"--to {settings.to!r}: expected s3://…, gs://…, az://… or file:///…")
    if "@" in settings.to or "?" in settings.to:
        raise UsageError("--to carries a user or a query; credentials come by file or environment")
    try:
        scene = parse_scene_id(settings.id) if settings.id else slug(settings.path.stem)
    except SceneIdError as error:
        raise UsageError(f"--id: {error}") from error
    wanted = publishing.Publication(
        scene=scene,
        path=settings.path,
        target=settings.to,
        catalogue=settings.catalogue,
        pack=settings.packed,
        replace=settings.replace,
        up=UPS.get(settings.up),
        credit=settings.credit,
        price_class=settings.price_class,
    )
    try:
        entry, uploaded = publishing.publish(wanted)
    except (publishing.PublishError, SceneFileError, SourceError, CatalogueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    done = "published" if uploaded else "was there already"
    click.echo(f"scene {entry.id} {done}: {entry.uri}, {entry.source_bytes:,} bytes, sha256 {entry.digest}")


COMMAND = verb(
    "publish",
    PublishSettings,
    publish,
    "splatfleet scene publish knot.ply --to s3://scenes/v1 --catalogue catalogue.json --credit 'Ada, CC0'",
    arguments=["path"],
)
