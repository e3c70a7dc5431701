#!/usr/bin/env bash
# pytest in two parts: first every test that shares the machine, on two processes; then, one after the other, those
# marked `alone`. Usage: scripts/run-tests.sh PYTHON [pytest's arguments]; exits 0 when both parts are good.
set -uo pipefail
cd "$(dirname "$0")/.."
python=$1
shift

worst=0 empty=0
part() {
  "$python" -m pytest "$@"
  local code=$?
  case $code in
    0) ;;
    5) empty=$((empty + 1)) ;; # no test of this part was asked for
    *) worst=$code ;;
  esac
}
part -n 3 --dist loadgroup -m "not alone" "$@"
[ "$worst" -gt 1 ] || part -n 2 --dist loadgroup -m alone "$@" # not after an interrupt or a usage error
[ "$empty" -lt 2 ] || worst=5
exit "$worst"
