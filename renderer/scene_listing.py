"""The scenes under an address of an object store as a catalogue: each is read once, so that its digest is known."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import quote, urlsplit

from fleet.scene import SceneId, slug
from renderer.catalogue import Catalogue, CatalogueEntry
from renderer.credentials import scrubbed
from renderer.scene_folder import SMALLEST_SCENE_GAUSSIANS, SUFFIXES
from renderer.scene_source import META_FILE, SourceError, open_bucket
from renderer.scene_store import FetchFailed, SceneStore
from renderer.splats import SceneFileError

_ROOM_BYTES = 1 << 50  # a scene at a time; the disk itself is the bound


def list_catalogue(address: str, include_all: bool = False) -> tuple[Catalogue, list[str]]:
    """The scenes under s3://BUCKET/PREFIX (gs://, az://), and one line for each that was skipped.

    Ids come from the path below the address. Every scene is downloaded to a temporary folder and thrown away.
    Raises SourceError where the address cannot be listed.
    """
    address = address.rstrip("/")
    entries: dict[SceneId, CatalogueEntry] = {}
    skipped: list[str] = []
    for name, uri in _scenes(address):
        scene = slug(name)
        if scene in entries:
            skipped.append(f"{name}: skipped, its id {scene} is that of {entries[scene].uri}")
            continue
        try:
            entry = _read(CatalogueEntry(scene, uri))
        except (FetchFailed, SceneFileError, OSError) as error:
            skipped.append(f"{name}: skipped, {error}")
            continue
        if not include_all and (entry.gaussians or 0) < SMALLEST_SCENE_GAUSSIANS:
            skipped.append(f"{name}: skipped, {entry.gaussians} Gaussians are fewer than {SMALLEST_SCENE_GAUSSIANS}")
        else:
            entries[scene] = entry
    return Catalogue(entries.values()), skipped


def _read(entry: CatalogueEntry) -> CatalogueEntry:
    with tempfile.TemporaryDirectory(prefix="splatfleet-catalogue-") as folder:
        record = SceneStore(Path(folder), _ROOM_BYTES).ensure(entry, pack=False).record
    return CatalogueEntry(
        entry.id,
        entry.uri,
        digest=record.digest,
        source_bytes=record.source_bytes,
        resident_bytes=record.resident_bytes,
        gaussians=record.gaussians,
    )


def _scenes(address: str) -> Iterator[tuple[str, str]]:
    """Name below the address and address of each scene, by name; files of a SOG folder are one."""
    import obstore
    from obstore.exceptions import BaseError

    prefix = urlsplit(address).path.strip("/")
    bucket = f"{'://'.join(urlsplit(address)[:2])}/"
    try:
        found = [item["path"] for chunk in obstore.list(open_bucket(address), prefix or None) for item in chunk]
    except (BaseError, OSError) as error:
        raise SourceError(scrubbed(f"{address}: {str(error).splitlines()[0][:300]}")) from None
    paths = sorted(PurePosixPath(path) for path in found)
    folders = {path.parent for path in paths if path.name == META_FILE}
    for path in paths:
        below = path.relative_to(prefix) if prefix else path
        if path.name == META_FILE:
            yield str(below.parent), bucket + quote(f"{path.parent}/")
        elif path.parent not in folders and path.suffix.lower() in SUFFIXES:
            yield str(below.with_suffix("")), bucket + quote(str(path))
