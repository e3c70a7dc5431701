"""A scene where it lies: which files it is made of, their bytes through obstore, and the digest of them all.

Digest of a scene: of one file, the sha256 of its bytes; of a folder (SOG), the sha256 over the lines
`name NUL sha256-in-hex LF` of its files, sorted by name. The files of a folder are meta.json and those it names.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

META_FILE = "meta.json"
SINGLE_FILE = "source"
_MAX_META_BYTES = 1 << 20
_MAX_FILES = 64
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_READ_BYTES = 1 << 20


class SourceError(Exception):
    """A scene that cannot be fetched; names the address and what went wrong, in one line."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a scene. `version` changes when the file does (e-tag, else modification time)."""

    name: str
    key: str  # inside the object store
    size_bytes: int
    version: str


class SceneSource:
    """The files of one scene in a folder or behind HTTP; listed when made. Raises SourceError."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._store, prefix, name = _open(uri)
        self.is_folder = not name or name == META_FILE
        if self.is_folder:
            names = [META_FILE, *self._named_in_meta(prefix + META_FILE)]
            self.parts = tuple(self._part(each, prefix + each) for each in names)
        else:
            self.parts = (self._part(SINGLE_FILE, prefix + name),)

    @property
    def total_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    def read(self, part: Part, start_byte: int, chunk_bytes: int) -> Iterator[bytes]:
        """The bytes of a part from `start_byte` on, in pieces of about `chunk_bytes`; raises SourceError."""
        import obstore

        options: Any = {"range": {"offset": start_byte}} if start_byte else {}
        with _faults(self.uri, part.name):
            stream = obstore.get(self._store, part.key, options=options).stream(min_chunk_size=chunk_bytes)
            for chunk in stream:
                yield bytes(chunk)

    def _part(self, name: str, key: str) -> Part:
        import obstore

        with _faults(self.uri, name):
            meta = obstore.head(self._store, key)
        return Part(name, key, int(meta["size"]), str(meta["e_tag"] or meta["last_modified"]))

    def _named_in_meta(self, key: str) -> list[str]:
        import obstore

        part = self._part(META_FILE, key)
        if part.size_bytes > _MAX_META_BYTES:
            raise SourceError(f"{self.uri}: {META_FILE} has {part.size_bytes} bytes, {_MAX_META_BYTES} are allowed")
        with _faults(self.uri, META_FILE):
            raw = bytes(obstore.get(self._store, key).bytes())
        try:
            return files_in_meta(raw)
        except ValueError as error:
            raise SourceError(f"{self.uri}: {META_FILE}: {error}") from error


class _faults:
    """Turn what obstore raises into SourceError with one line."""

    def __init__(self, uri: str, name: str) -> None:
        self._where = uri if name == SINGLE_FILE else f"{uri} ({name})"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise SourceError(f"{self._where}: there is no such file") from error
        if error is not None and not isinstance(error, (GeneratorExit, KeyboardInterrupt)):
            raise SourceError(f"{self._where}: {str(error).splitlines()[0]}") from error


def _open(uri: str) -> tuple[Any, str, str]:
    """The object store of an address, the folder inside it (with `/`) and the name of the file, empty for a folder."""
    from obstore.store import HTTPStore, LocalStore

    parts = urlsplit(uri)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
        if path.is_dir():
            return LocalStore(path), "", ""
        if not path.exists():
            raise SourceError(f"{uri}: there is no such file or folder")
        return LocalStore(path.parent), "", path.name
    if parts.scheme not in ("http", "https"):
        raise SourceError(f"{uri}: scheme {parts.scheme!r} is not supported, expected file, http or https")
    store = HTTPStore.from_url(
        f"{parts.scheme}://{parts.netloc}",
        # The whole answer may take long under a bandwidth cap; a server that falls silent may not.
        client_options={"allow_http": True, "timeout": "24h", "connect_timeout": "5s", "read_timeout": "20s"},
        retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)},
    )
    folder, _, name = unquote(parts.path).lstrip("/").rpartition("/")
    return store, f"{folder}/" if folder else "", name


def files_in_meta(raw: bytes) -> list[str]:
    """Names in all `files` lists of a SOG meta.json, sorted; raises ValueError for a name that is more than a name."""
    found: set[str] = set()

    def walk(value: object) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                if key == "files" and isinstance(below, list):
                    found.update(str(name) for name in below)
                else:
                    walk(below)

    walk(json.loads(raw))
    for name in found:
        if _PLAIN_NAME.fullmatch(name) is None or name == META_FILE:
            raise ValueError(f"files names {name[:80]!r}, expected a plain file name")
    if len(found) > _MAX_FILES:
        raise ValueError(f"files names {len(found)} files, at most {_MAX_FILES} are allowed")
    return sorted(found)


def combined_digest(digests: Mapping[str, str]) -> str:
    """Digest of a folder from the sha256 (hex) of each of its files by name."""
    lines = "".join(f"{name}\0{digests[name]}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def hash_file(path: Path, digest: Any, on_bytes: Callable[[int], None] | None = None) -> None:
    """Feed a file's bytes to a hash."""
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            digest.update(chunk)
            if on_bytes is not None:
                on_bytes(len(chunk))


def local_files(path: Path) -> dict[str, Path]:
    """The files of a scene on disk by name; raises ValueError or OSError for a damaged meta.json."""
    if path.name == META_FILE:
        path = path.parent
    if not path.is_dir():
        return {SINGLE_FILE: path}
    return {name: path / name for name in (META_FILE, *files_in_meta((path / META_FILE).read_bytes()))}


def digest_of(path: Path) -> str:
    """Digest of a scene on disk, a file or a SOG folder; raises OSError or ValueError."""
    digests = {}
    files = local_files(path)
    for name, file in files.items():
        digest = hashlib.sha256()
        hash_file(file, digest)
        digests[name] = digest.hexdigest()
    return digests[SINGLE_FILE] if SINGLE_FILE in files else combined_digest(digests)
