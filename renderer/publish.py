"""A scene checked, uploaded under a name that its digest makes unique, and written into the catalogue."""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.scene import SceneId
from renderer import formats, packed
from renderer.catalogue import Catalogue, CatalogueEntry, Vector, load_catalogue, save_catalogue
from renderer.credentials import scrubbed
from renderer.scene_source import (
    OBJECT_STORES,
    SINGLE_FILE,
    SourceError,
    digest_of,
    local_files,
    open_bucket,
)
from renderer.sources import open_source
from renderer.store_files import locked

_ONE_REQUEST_BYTES = 64 << 20
_UPLOAD_PART_BYTES = 16 << 20


class PublishError(Exception):
    """A scene that was not published; the catalogue is as it was."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What is published where. `target` is an address of a folder: s3://…, gs://…, az://… or file:///…."""

    scene: SceneId
    path: Path
    target: str
    catalogue: Path
    pack: bool = False  # upload our packed layout instead of the file: larger or smaller, but nothing to parse
    replace: bool = False
    up: Vector | None = None
    credit: str = ""
    price_class: str = ""


def publish(wanted: Publication) -> tuple[CatalogueEntry, bool]:
    """The entry, and whether anything was uploaded; publishing the same again changes nothing.

    Raises PublishError, SceneFileError for a scene that cannot be drawn, SourceError, CatalogueError and OSError.
    """
    splats = formats.read(wanted.path)  # every value is checked
    with tempfile.TemporaryDirectory(prefix="splatfleet-publish-") as folder:
        path = wanted.path
        if wanted.pack:
            path = Path(folder) / f"{wanted.scene}.packed"
            packed.write(splats, path)
        digest = digest_of(path)
        files = local_files(path)
        stem = f"{wanted.scene}-{digest[:12]}"
        is_file = SINGLE_FILE in files
        uri = f"{wanted.target.rstrip('/')}/{stem}{path.suffix if is_file else '/'}"
        entry = CatalogueEntry(
            id=wanted.scene,
            uri=uri,
            digest=digest,
            source_bytes=sum(file.stat().st_size for file in files.values()),
            resident_bytes=splats.nbytes,
            gaussians=splats.count,
            credit=wanted.credit,
            price_class=wanted.price_class,
        )
        if wanted.up is not None:
            entry = dataclasses.replace(entry, up=wanted.up)
        known = _known(wanted).get(wanted.scene)
        _refuse_other(wanted, known, entry)
        uploaded = not _lies_there(entry)
        if uploaded:
            _upload(uri, {"" if is_file else name: file for name, file in files.items()})
            if not _lies_there(entry):
                raise PublishError(f"{uri}: what was uploaded is not what lies there")
    return _write(wanted, entry), uploaded


def _known(wanted: Publication) -> dict[SceneId, CatalogueEntry]:
    return dict(load_catalogue(wanted.catalogue).entries) if wanted.catalogue.exists() else {}


def _refuse_other(wanted: Publication, known: CatalogueEntry | None, entry: CatalogueEntry) -> None:
    if known is not None and known.digest != entry.digest and not wanted.replace:
        raise PublishError(
            f"scene {wanted.scene} is in {wanted.catalogue} with digest {known.digest}, this one has {entry.digest}; "
            "--replace puts this one in its place"
        )


def _lies_there(entry: CatalogueEntry) -> bool:
    try:
        return open_source(entry.uri).total_bytes == entry.source_bytes
    except SourceError as error:
        if "no such file" in str(error):
            return False
        raise


def _upload(uri: str, files: dict[str, Path]) -> None:
    import obstore
    from obstore.exceptions import BaseError

    store, prefix = _target(uri)
    # meta.json last: a reader that sees it finds all that it names.
    for name in sorted(files, key=lambda name: (name == "meta.json", name)):
        try:
            in_parts = files[name].stat().st_size > _ONE_REQUEST_BYTES
            obstore.put(store, prefix + name, files[name], use_multipart=in_parts, chunk_size=_UPLOAD_PART_BYTES)
        except (BaseError, OSError) as error:
            raise SourceError(scrubbed(f"{uri}{name}: {str(error).splitlines()[0][:300]}")) from None


def _target(uri: str) -> tuple[Any, str]:
    """The store to write to and what stands before each file's name in it."""
    from obstore.store import LocalStore

    parts = urlsplit(uri)
    if parts.scheme == "file":
        return LocalStore(), parts.path.lstrip("/")
    if parts.scheme in OBJECT_STORES:
        return open_bucket(uri), parts.path.lstrip("/")
    raise PublishError(f"{uri}: expected {'://, '.join(OBJECT_STORES)}:// or file:///")


def _write(wanted: Publication, entry: CatalogueEntry) -> CatalogueEntry:
    """Into the catalogue as it is now; two publishers take turns."""
    with locked(wanted.catalogue.with_name(f".{wanted.catalogue.name}.lock"), exclusive=True):
        entries = _known(wanted)
        known = entries.get(wanted.scene)
        _refuse_other(wanted, known, entry)
        if known is not None:  # what was not given stays
            entry = dataclasses.replace(
                entry,
                up=wanted.up or known.up,
                default_camera=known.default_camera,
                credit=wanted.credit or known.credit,
                price_class=wanted.price_class or known.price_class,
            )
        entries[wanted.scene] = entry
        save_catalogue(Catalogue(entries.values()), wanted.catalogue)
    return entry
