#!/usr/bin/env bash
# Make .venv with the command `splatfleet` in it, Triton in place and the kernels compiled.
# A second run costs nothing; a change of the lock, of pyproject.toml or of the kernels installs again.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
TRITON_WHEEL=nvidia-pytriton==0.7.0
UV_WHEEL=uv==0.13.9

fail() { echo "make install: $*" >&2; exit 1; }
say() { printf '%s  %s\n' "$(date +%H:%M:%S)" "$*"; }

command -v "$PYTHON" >/dev/null || fail "no '$PYTHON' on PATH; install Python 3.11 or 3.12, or: make install PYTHON=/path/to/python3.12"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
  3.11 | 3.12) ;;
  *) fail "Python $version cannot run the Triton of the local fleet (its model process needs numpy < 2, see docs/triton.md); use: make install PYTHON=python3.12" ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] || fail "the Triton wheel is for Linux on x86-64, this is $(uname -sm)"
"$PYTHON" -c 'import ctypes; libc = ctypes.CDLL("libc.so.6"); libc.gnu_get_libc_version.restype = ctypes.c_char_p
v = tuple(map(int, libc.gnu_get_libc_version().decode().split(".")[:2])); raise SystemExit(v < (2, 35))' \
  || fail "the Triton wheel needs glibc 2.35 or newer (Debian 12, Ubuntu 22.04)"

want=$({ cat requirements/dev.lock pyproject.toml scripts/install.sh renderer/cpu*.py scheduler_extender/{compiled,names,price_loops,scores}.py; "$PYTHON" -V; pwd; } | sha256sum | cut -c1-16)
stamp=$VENV/.installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ]; then exit 0; fi

# uv fetches in parallel and compiles nothing that nobody imports: seconds where pip takes minutes. It reads none of
# pip's settings, so it is told what pip knows of the index; where it is not to be had or fails, pip does the same.
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }
pip_setting() { sed -n "s/^[^=]*\.$1='\(.*\)'\$/\1/p" <<<"$pip_settings" | tail -n1; }
put() {
  if [ -n "$uv" ]; then
    "$uv" pip install --quiet --python "$VENV/bin/python" --no-deps "$@" && return
    say "uv failed, so pip: a few minutes" && uv=
  fi
  pip install --quiet --no-compile --no-deps "$@"
}

say "1/4 virtual environment in $VENV (Python $version)"
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
uv=
if pip install --quiet --no-compile "$UV_WHEEL" && "$VENV/bin/uv" --version >/dev/null; then
  uv=$VENV/bin/uv
  pip_settings=$(pip config list)
  index=$(pip_setting index-url) more=$(pip_setting extra-index-url) authorities=$(pip_setting cert)
  if [ -n "$index" ]; then export UV_DEFAULT_INDEX=${UV_DEFAULT_INDEX:-$index}; fi
  if [ -n "$more" ]; then export UV_INDEX=${UV_INDEX:-$more}; fi
  if [ -n "$authorities" ]; then export SSL_CERT_FILE=${SSL_CERT_FILE:-$authorities}; fi
fi
say "2/4 $(grep -c '==' requirements/dev.lock) pinned packages, Triton server (55 MB)"
put -r requirements/dev.lock "$TRITON_WHEEL"
say "3/4 splatfleet itself"
put --no-build-isolation --editable .
say "4/4 Triton's Python backend, kernels"
"$VENV/bin/python" -m local_fleet.prepare
echo "$want" > "$stamp"
say "installed: $VENV/bin/splatfleet --help"
