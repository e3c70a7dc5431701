#!/usr/bin/env bash
# pytest in two parts: first every test that shares the machine, on three processes of which two wait; then, on two,
# those marked `alone`. Usage: scripts/run-tests.sh PYTHON [pytest's arguments]; exits 0 when both parts are good.
set -uo pipefail
cd "$(dirname "$0")/.."
python=$1
shift

worst=0 empty=0
part() {
  "$python" -m pytest --dist loadgroup --no-loadscope-reorder "$@" # in the order of tests/conftest.py
  local code=$?
  case $code in
    0) ;;
    5) empty=$((empty + 1)) ;; # no test of this part was asked for
    *) worst=$code ;;
  esac
}
part -n 3 -m "not alone" "$@"
[ "$worst" -gt 1 ] || part -n 2 -m alone "$@" # not after an interrupt or a usage error
[ "$empty" -lt 2 ] || worst=5
exit "$worst"
