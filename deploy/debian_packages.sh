#!/usr/bin/env bash
# Installs the named Debian packages that are missing: when root, else says the one line to run.
set -euo pipefail
command -v dpkg-query >/dev/null || exit 0  # not Debian: MuJoCo says itself what it misses

missing=()
for package in "$@"; do
  status="$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)"
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "The simulator needs Debian packages that are missing. Run:  sudo apt-get install -y ${missing[*]}" >&2
  exit 0
fi
echo "Installing ${missing[*]} (off-screen rendering) ..."
export DEBIAN_FRONTEND=noninteractive
apt-get install -y -qq "${missing[@]}" >/dev/null 2>&1 || {
  apt-get update -qq
  apt-get install -y -qq "${missing[@]}" >/dev/null
}
