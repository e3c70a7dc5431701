#!/usr/bin/env bash
# Renew the lock: `requirements/lock.sh` after a change of dev.in. One lock serves Python 3.11 and 3.12.
set -euo pipefail
cd "$(dirname "$0")"
python3 -m pip --version >/dev/null
uv pip compile --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate -q dev.in -o dev.lock
