"""Secrets from files or the environment, never from arguments; a file that changes counts from the next use on."""

from __future__ import annotations

import configparser
import hmac
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from fleet import labels

_S3_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_FRESH_FOR = timedelta(seconds=30)  # a rotated key is used by a long download after so long
_LEAST_CHARACTERS = 16


class CredentialError(Exception):
    """A secret that is missing or cannot be used; says where it should be, never what it is."""


@dataclass(frozen=True, slots=True)
class BearerTokens:
    """The tokens that scene agents take, one a line of `file`, else of SPLATFLEET_SCENE_AGENT_TOKEN; the first is sent.

    Two lines are a rotation: both are taken until every sender has the new first one.
    """

    file: Path | None = None

    def all(self) -> tuple[str, ...]:
        """Every token that is taken now; raises CredentialError where there is none."""
        where = str(self.file) if self.file is not None else labels.SCENE_AGENT_TOKEN_ENV
        try:
            text = self.file.read_text() if self.file is not None else os.environ.get(where, "")
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise CredentialError(f"token file {where}: {reason}") from error
        found = tuple(line.strip() for line in text.splitlines() if line.strip())
        if not found:
            raise CredentialError(f"{where} holds no token: expected one a line, the first is sent to other agents")
        if any(len(token) < _LEAST_CHARACTERS or not token.isascii() or " " in token for token in found):
            raise CredentialError(f"{where}: a token is ASCII without spaces, {_LEAST_CHARACTERS} characters or more")
        return found

    def headers(self) -> dict[str, str]:
        """The header that a request to an agent carries; raises CredentialError."""
        return {"authorization": f"Bearer {self.all()[0]}"}

    def allow(self, header: str | None) -> bool:
        """Whether an Authorization header holds a token that is taken; raises CredentialError."""
        scheme, _, given = (header or "").partition(" ")
        sent = given.strip().encode("utf-8", "replace")
        matches = [hmac.compare_digest(sent, token.encode()) for token in self.all()]
        return scheme.lower() == "bearer" and any(matches)


def s3_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """How obstore finds S3 credentials: the shared credentials file where one is named, else its own chain.

    That chain is the AWS_* environment, then web identity, then the instance. Raises CredentialError.
    """
    options: dict[str, Any] = {}
    endpoint = environment.get("AWS_ENDPOINT_URL", "")
    if endpoint.startswith("http://"):
        options["client_options"] = {"allow_http": True}
    path = environment.get("AWS_SHARED_CREDENTIALS_FILE")
    if path:
        profile = environment.get("AWS_PROFILE", "default")
        shared_credentials(Path(path), profile)  # a fault is told here, in one line
        options["credential_provider"] = lambda: shared_credentials(Path(path), profile)
    return options


def gcs_options(environment: Mapping[str, str]) -> dict[str, Any]:
    """Google's credentials are found by its own environment; a service account of an emulator may name http://."""
    path = environment.get("GOOGLE_SERVICE_ACCOUNT") or environment.get("GOOGLE_APPLICATION_CREDENTIALS") or ""
    try:
        account = json.loads(Path(path).read_bytes()) if path else {}
    except (OSError, ValueError):
        raise CredentialError(f"service account {path}: not readable as JSON") from None
    is_plain = isinstance(account, dict) and str(account.get("gcs_base_url", "")).startswith("http://")
    return {"client_options": {"allow_http": True}} if is_plain else {}


def shared_credentials(path: Path, profile: str) -> dict[str, Any]:
    """One profile of an AWS shared credentials file, fresh for half a minute; raises CredentialError."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text())
        section = parser[profile]
        return {
            "access_key_id": section["aws_access_key_id"],
            "secret_access_key": section["aws_secret_access_key"],
            "token": section.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + _FRESH_FOR,
        }
    except OSError as error:
        raise CredentialError(f"AWS_SHARED_CREDENTIALS_FILE {path}: {error.strerror}") from error
    except (configparser.Error, KeyError, ValueError):  # their messages quote lines of the file
        raise CredentialError(
            f"AWS_SHARED_CREDENTIALS_FILE {path}: profile {profile} needs aws_access_key_id and aws_secret_access_key"
        ) from None


def scrubbed(text: str) -> str:
    """A message without what is secret: a server's error may quote the request that it got."""
    secrets = [os.environ.get(name, "") for name in (*_S3_SECRETS, labels.SCENE_AGENT_TOKEN_ENV)]
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if path:
        try:
            known = shared_credentials(Path(path), os.environ.get("AWS_PROFILE", "default"))
        except CredentialError:
            known = {}
        secrets += [str(known.get(name) or "") for name in ("access_key_id", "secret_access_key", "token")]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text
