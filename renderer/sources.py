"""The source that reads an address of a catalogue, or an object of another node's agent."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from kube.tls import ClientTls
from renderer.credentials import scrubbed
from renderer.fetch_terms import Terms
from renderer.scene_roots import ANYWHERE, SceneRoots
from renderer.scene_source import META_FILE, NO_RETRIES, SceneSource, TryAgain, folder_and_file, open_bucket
from renderer.web_client import Access
from renderer.web_source import WebSource

_SIGNED_FOR = timedelta(minutes=10)
_PEER_CONNECT_TIMEOUT_S = 0.5
_PEER_READ_TIMEOUT_S = 2.0
_NO_TERMS = Terms()


def open_source(uri: str, terms: Terms = _NO_TERMS, roots: SceneRoots = ANYWHERE) -> SceneSource | WebSource:
    """What lies there: HTTP and S3 over connections of our own, the rest through obstore.

    Raises SourceError or fetch_terms.Stopped.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("http", "https"):
        origin = "://".join(urlsplit(uri)[:2])
        return WebSource(
            uri, folder_and_file(uri), lambda _verb, key: f"{origin}/{quote(key)}", Access(roots=roots), terms
        )
    signed = _signed_s3(uri, terms) if scheme == "s3" else None
    return signed or SceneSource(uri, terms)


def peer_source(uri: str, headers: Mapping[str, str], tls: ClientTls | None, ranges: int) -> WebSource:
    """An object at another node's agent, a folder where the address ends with `/`; asked once, never patiently."""
    access = Access(headers, tls, None, _PEER_CONNECT_TIMEOUT_S, _PEER_READ_TIMEOUT_S, by_proxy=False)
    origin = "://".join(urlsplit(uri)[:2])
    terms = Terms(retries=0, ranges=ranges)
    return WebSource(uri, folder_and_file(uri), lambda _verb, key: f"{origin}/{quote(key)}", access, terms)


def _signed_s3(uri: str, terms: Terms) -> WebSource | None:
    """S3 by signed addresses: nothing of the credentials lies in a header that a redirect could take along.

    None where there is nothing to sign with: a public bucket.
    """
    import obstore
    from obstore.exceptions import BaseError

    bucket = open_bucket(uri, NO_RETRIES)
    folder, name = folder_and_file(uri)

    def address(verb: Any, key: str) -> str:
        try:
            return str(obstore.sign(bucket, verb, key, _SIGNED_FOR))
        except (BaseError, ValueError, TypeError, NotImplementedError) as error:
            raise TryAgain(scrubbed(f"{uri}: not signed: {str(error).splitlines()[0][:300]}")) from None

    try:
        address("HEAD", folder + (name or META_FILE))
    except TryAgain:
        return None
    return WebSource(uri, (folder, name), address, Access(), terms)
