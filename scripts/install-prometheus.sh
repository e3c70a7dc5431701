#!/usr/bin/env bash
# Bring Debian's prometheus and promtool into DIR: no service, no root, nothing outside DIR.
# Usage: scripts/install-prometheus.sh [DIR]   (default .tools/prometheus). Exits 3 where it cannot be had.
set -euo pipefail
dir=${1:-.tools/prometheus}

cannot() { echo "prometheus: cannot be had here: $*" >&2; exit 3; }
version() { "$1" --version 2>&1 | sed -n 's/^\(prometheus, version [^ ]*\).*/\1/p'; }

if [ -x "$dir/prometheus" ] && [ -x "$dir/promtool" ] && [ -n "$(version "$dir/prometheus")" ]; then
  echo "$(version "$dir/prometheus") is in $dir"
  exit 0
fi
if command -v prometheus >/dev/null && command -v promtool >/dev/null; then
  echo "$(version prometheus) is on PATH"
  exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || cannot "no apt-get; put prometheus and promtool on PATH or into $dir"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work" # apt's own user downloads into it
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial"
cd "$work"
# The machine's package lists serve where they exist; else lists of our own, which need no root.
if ! timeout 120 apt-get download -qq prometheus >"$work/log" 2>&1; then
  own=(-o "Dir::State=$work/state" -o "Dir::State::lists=$work/state/lists" -o "Dir::State::status=/var/lib/dpkg/status" -o "Dir::Cache=$work/cache" -o "APT::Sandbox::User=$(id -un)")
  timeout 120 apt-get "${own[@]}" update -qq >"$work/log" 2>&1 &&
    timeout 120 apt-get "${own[@]}" download -qq prometheus >"$work/log" 2>&1 ||
    cannot "apt-get: $(grep -m1 '^[EW]:' "$work/log" || tail -n1 "$work/log")"
fi
cd "$OLDPWD"
dpkg-deb -x "$work"/prometheus_*.deb "$work/root"
[ -n "$(version "$work/root/usr/bin/prometheus")" ] || cannot "Debian's binary does not run here (needs glibc of its release)"
mkdir -p "$dir"
for tool in prometheus promtool; do install -m 755 "$work/root/usr/bin/$tool" "$dir/.$tool.new" && mv "$dir/.$tool.new" "$dir/$tool"; done
echo "$(version "$dir/prometheus") is in $dir"
