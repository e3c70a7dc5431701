"""`--kubernetes`: the connection that a verb's parts share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from splatfleet.settings import UsageError

if TYPE_CHECKING:
    from kube.connection import Connection


def connect() -> Connection:
    """The API server of KUBECONFIG, or of the pod that we run in; raises UsageError with the fix."""
    from kube.connection import Connection
    from kube.errors import ConfigError

    try:
        return Connection.open()
    except ConfigError as error:
        raise UsageError(f"--kubernetes: {error}") from error
