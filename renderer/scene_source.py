"""A scene where it lies: which files it is made of, their bytes through obstore, and the digest of them all.

Digest of a scene: of one file, the sha256 of its bytes; of a folder (SOG), the sha256 over the lines
`name NUL sha256-in-hex LF` of its files, sorted by name. The files of a folder are meta.json and those it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from renderer.credentials import CredentialError, s3_options, scrubbed

META_FILE = "meta.json"
SINGLE_FILE = "source"
_MAX_META_BYTES = 1 << 20
_MAX_FILES = 64
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_READ_BYTES = 1 << 20


OBJECT_STORES = ("s3", "gs", "az")
_MAX_MESSAGE_CHARACTERS = 300
_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")
_CLIENT_OPTIONS: dict[str, Any] = {
    # The whole answer may take long under a bandwidth cap; a server that falls silent may not.
    "timeout": "24h",
    "connect_timeout": "5s",
    "read_timeout": "20s",
}
_IMPATIENT_OPTIONS = {"connect_timeout": "500ms", "read_timeout": "2s"}
_RETRY_CONFIG: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}


class SourceError(Exception):
    """A scene that cannot be fetched; names the address and what went wrong, in one line."""


class TryAgain(SourceError):
    """A fault that may pass: a connection that broke, a server that was busy."""


class NoRanges(SourceError):
    """A server that sends a file whole or not at all."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a scene. `version` changes when the file does (e-tag, else modification time)."""

    name: str
    key: str  # inside the object store
    size_bytes: int
    version: str


class SceneSource:
    """The files of one scene in a folder, an object store, behind HTTP or at a peer; listed when made.

    `headers` go with every request of an http address, and not over a redirect to another host. Raises SourceError.
    """

    def __init__(self, uri: str, headers: Mapping[str, str] | None = None, patient: bool = True) -> None:
        """One that is not `patient` answers within a second or so, or is given up: there is another to ask."""
        self.uri = uri
        self._store, prefix, name = _open(uri, headers or {}, patient)
        self.is_folder = not name or name == META_FILE
        if self.is_folder:
            names = [META_FILE, *self._named_in_meta(prefix + META_FILE)]
            self.parts = tuple(self._part(each, prefix + each) for each in names)
        else:
            self.parts = (self._part(SINGLE_FILE, prefix + name),)

    @property
    def total_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    async def read(self, part: Part, span: tuple[int, int] | None, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Bytes `start` to `end` of a part (None: all, for servers without ranges) in pieces of about `chunk_bytes`.

        Raises SourceError, its kinds TryAgain and NoRanges where they fit.
        """
        import obstore

        with _faults(self.uri, part.name):
            answer = await obstore.get_async(self._store, part.key, options={"range": span} if span else {})
            # A new file under the old address would be mixed with what we have of the old one.
            version = str(answer.meta["e_tag"] or answer.meta["last_modified"])
            if version != part.version and answer.meta["e_tag"]:
                raise SourceError(f"{self.uri}: {part.name} changed while it was fetched")
            async for chunk in answer.stream(min_chunk_size=chunk_bytes):
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
    """Turn what obstore raises into SourceError with one line that holds no secret."""

    def __init__(self, uri: str, name: str) -> None:
        self._where = uri if name == SINGLE_FILE else f"{uri} ({name})"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from obstore.exceptions import GenericError, JoinError, NotSupportedError

        if error is None or isinstance(error, SourceError) or not isinstance(error, Exception):
            return
        if isinstance(error, FileNotFoundError):
            raise SourceError(f"{self._where}: there is no such file") from None
        if isinstance(error, NotSupportedError):
            raise NoRanges(f"{self._where}: the server does not serve ranges") from None
        lines = str(error).splitlines() or [type(error).__name__]
        message = scrubbed(f"{self._where}: {lines[0][:_MAX_MESSAGE_CHARACTERS]}")
        # Our own words only: what is chained would print the whole of the server's answer.
        refused = _REFUSED.search(lines[0]) is not None
        if isinstance(error, (GenericError, JoinError)) and not refused:
            raise TryAgain(message) from None
        raise SourceError(message) from None


def _open(uri: str, headers: Mapping[str, str], patient: bool) -> tuple[Any, str, str]:
    """The object store of an address, the folder inside it (with `/`) and the name of the file, empty for a folder."""
    from obstore.store import LocalStore

    parts = urlsplit(uri)
    if parts.scheme == "file":
        path = Path(url2pathname(parts.path))
        if path.is_dir():
            return LocalStore(path), "", ""
        if not path.exists():
            raise SourceError(f"{uri}: there is no such file or folder")
        return LocalStore(path.parent), "", path.name
    folder, _, name = unquote(parts.path).lstrip("/").rpartition("/")
    prefix = f"{folder}/" if folder else ""
    if parts.scheme in ("http", "https"):
        options = {**_CLIENT_OPTIONS, "allow_http": True, "default_headers": dict(headers)}
        if not patient:
            options |= _IMPATIENT_OPTIONS
        store = _store_at(
            f"{parts.scheme}://{parts.netloc}",
            client_options=options,
            retry_config=_RETRY_CONFIG if patient else {**_RETRY_CONFIG, "max_retries": 0},
        )
        return store, prefix, name
    if parts.scheme in OBJECT_STORES:
        return open_bucket(uri), prefix, name
    raise SourceError(
        f"{uri}: scheme {parts.scheme!r} is not supported, expected file, http, https, {', '.join(OBJECT_STORES)}"
    )


def _store_at(url: str, **options: Any) -> Any:
    from obstore.store import from_url

    make: Any = from_url  # typed by scheme, which is not known here
    return make(url, **options)


def open_bucket(uri: str) -> Any:
    """The bucket of an address in an object store, its credentials from file or environment; raises SourceError."""
    from obstore.exceptions import BaseError

    parts = urlsplit(uri)
    try:
        options = s3_options(os.environ) if parts.scheme == "s3" else {}
        client_options = {**_CLIENT_OPTIONS, **options.pop("client_options", {})}
        return _store_at(
            f"{parts.scheme}://{parts.netloc}", client_options=client_options, retry_config=_RETRY_CONFIG, **options
        )
    except (CredentialError, BaseError, ValueError) as error:
        raise SourceError(scrubbed(f"{uri}: {str(error).splitlines()[0]}")) from None


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
        if PLAIN_NAME.fullmatch(name) is None or name == META_FILE:
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
