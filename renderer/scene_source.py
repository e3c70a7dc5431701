"""A scene where it lies: which files it is made of, their bytes through obstore, and the digest of them all.

Digest of a scene: of one file, the sha256 of its bytes; of a folder (SOG), the sha256 over the lines
`name NUL sha256-in-hex LF` of its files, sorted by name. The files of a folder are meta.json and those it names.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from renderer.busy_server import asked_pause_s
from renderer.credentials import CredentialError, gcs_options, s3_options, scrubbed
from renderer.fetch_terms import Terms

META_FILE = "meta.json"
SINGLE_FILE = "source"
LARGEST_META_BYTES = 1 << 20
_MAX_FILES = 64
PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_READ_BYTES = 1 << 20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
Sink = Callable[[memoryview], None]  # where pieces of a file go, in their order

OBJECT_STORES = ("s3", "gs", "az")
_MAX_MESSAGE_CHARACTERS = 300
_REFUSED = re.compile(r"status code: 4(?!08|29)\d\d")
_CLIENT_OPTIONS: dict[str, Any] = {
    # The whole answer may take long under a bandwidth cap; a server that falls silent may not.
    "timeout": "24h",
    "connect_timeout": "5s",
    "read_timeout": "20s",
}
# Tried again here, not there: its pauses know neither Retry-After nor our deadline.
NO_RETRIES: dict[str, Any] = {"max_retries": 0, "retry_timeout": timedelta(seconds=20)}
_UPLOAD_RETRIES: dict[str, Any] = {"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
_BUSY = re.compile(r"status code: (?:429|503)")
_FIRST_PAUSE_S = 0.25
_SIGNED_FOR = timedelta(seconds=60)


class SourceError(Exception):
    """A scene that cannot be fetched; names the address and what went wrong, in one line."""


class TryAgain(SourceError):
    """A fault that may pass: a connection that broke, a server that was busy."""


class Busy(TryAgain):
    """A server that asked to be left alone for a while, `asked_s` where it said for how long."""

    def __init__(self, message: str, asked_s: float | None = None) -> None:
        super().__init__(message)
        self.asked_s = asked_s


class NoRanges(SourceError):
    """A server that sends a file whole or not at all."""


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a scene. `version` changes when the file does (e-tag, else modification time)."""

    name: str
    key: str  # inside the object store
    size_bytes: int
    version: str


_NO_TERMS = Terms()
_CHUNK_BYTES = 256 << 10  # so much is lost where a connection breaks
T = TypeVar("T")


class SceneSource:
    """The files of one scene in a folder or an object store, through obstore; listed when made. Raises SourceError."""

    def __init__(self, uri: str, terms: Terms = _NO_TERMS) -> None:
        """`terms` bound how long a busy server is asked for the list; raises fetch_terms.Stopped where they say so."""
        self.uri = uri
        self._terms = terms
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

    def pause_s(self, part: Part, failures: int, error: TryAgain) -> float:
        """How long to wait before a part is asked for again: what a busy server says, else longer each time."""
        asked_s = self._asked_pause_s(part.key) if isinstance(error, Busy) else None
        return pause_after(failures) if asked_s is None else asked_s

    def _asked_pause_s(self, key: str) -> float | None:
        import obstore
        from obstore.exceptions import BaseError

        try:
            signed = obstore.sign(self._store, "GET", key, _SIGNED_FOR)
        except (BaseError, ValueError, TypeError, NotImplementedError):
            return None  # by a public bucket, for one
        return asked_pause_s(str(signed))

    async def read(
        self, part: Part, span: tuple[int, int] | None, chunk_bytes: int | None, sink: Sink
    ) -> AsyncIterator[int]:
        """Bytes `start` to `end` of a part (None: all) into the sink, telling how many came each time.

        They come in pieces of about `chunk_bytes`. Raises SourceError, its kinds TryAgain and NoRanges where they fit.
        """
        import obstore

        with _faults(self.uri, part.name):
            answer = await obstore.get_async(self._store, part.key, options={"range": span} if span else {})
            # A new file under the old address would be mixed with what we have of the old one.
            version = str(answer.meta["e_tag"] or answer.meta["last_modified"])
            if version != part.version and answer.meta["e_tag"]:
                raise SourceError(f"{self.uri}: {part.name} changed while it was fetched")
            async for chunk in answer.stream(min_chunk_size=chunk_bytes or _CHUNK_BYTES):
                await asyncio.to_thread(sink, memoryview(chunk))
                yield len(chunk)

    def _part(self, name: str, key: str) -> Part:
        import obstore

        meta = self._patiently(name, key, lambda: obstore.head(self._store, key))
        return Part(name, key, int(meta["size"]), str(meta["e_tag"] or meta["last_modified"]))

    def _named_in_meta(self, key: str) -> list[str]:
        import obstore

        part = self._part(META_FILE, key)
        if part.size_bytes > LARGEST_META_BYTES:
            raise SourceError(f"{self.uri}: {META_FILE} has {part.size_bytes} bytes, {LARGEST_META_BYTES} are allowed")
        raw = self._patiently(META_FILE, key, lambda: bytes(obstore.get(self._store, key).bytes()))
        try:
            return files_in_meta(raw)
        except ValueError as error:
            raise SourceError(f"{self.uri}: {META_FILE}: {error}") from error

    def _patiently(self, name: str, key: str, ask: Callable[[], T]) -> T:
        def asked() -> T:
            with _faults(self.uri, name):
                return ask()
            raise AssertionError("a fault was not raised")

        part = Part(name, key, 0, "")
        return patiently(self._terms, asked, lambda failures, error: self.pause_s(part, failures, error))


def patiently(terms: Terms, ask: Callable[[], T], pause_s: Callable[[int, TryAgain], float]) -> T:
    """What `ask` answers, asked again while the terms allow it and the fault may pass."""
    failures = 0
    while True:
        try:
            return ask()
        except TryAgain as error:
            failures += 1
            if failures > terms.retries or terms.left_s() <= 0:
                raise
            terms.pause(pause_s(failures, error))


def pause_after(failures: int) -> float:
    """Seconds before the next try where nobody says: doubled each time, spread so that clients do not meet."""
    return _FIRST_PAUSE_S * float(2 ** (failures - 1)) * random.uniform(0.5, 1.5)


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
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # the sink's: nothing is wrong with the source
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
            raise (Busy if _BUSY.search(lines[0]) else TryAgain)(message) from None
        raise SourceError(message) from None


def folder_and_file(uri: str) -> tuple[str, str]:
    """The folder that an address names inside its store (with `/`) and the name of the file, empty for a folder."""
    folder, _, name = unquote(urlsplit(uri).path).lstrip("/").rpartition("/")
    return f"{folder}/" if folder else "", name


def _open(uri: str) -> tuple[Any, str, str]:
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
    if parts.scheme in OBJECT_STORES:
        return open_bucket(uri, NO_RETRIES), *folder_and_file(uri)
    raise SourceError(
        f"{uri}: scheme {parts.scheme!r} is not supported, expected file, http, https, {', '.join(OBJECT_STORES)}"
    )


def _store_at(url: str, **options: Any) -> Any:
    from obstore.store import from_url

    make: Any = from_url  # typed by scheme, which is not known here
    return make(url, **options)


def open_bucket(uri: str, retries: dict[str, Any] = _UPLOAD_RETRIES) -> Any:
    """The bucket of an address in an object store, its credentials from file or environment; raises SourceError."""
    from obstore.exceptions import BaseError

    parts = urlsplit(uri)
    try:
        options = {"s3": s3_options, "gs": gcs_options}.get(parts.scheme, lambda _environment: {})(os.environ)
        client_options = {**_CLIENT_OPTIONS, **options.pop("client_options", {})}
        return _store_at(
            f"{parts.scheme}://{parts.netloc}", client_options=client_options, retry_config=retries, **options
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
