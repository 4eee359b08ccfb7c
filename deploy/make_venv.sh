#!/usr/bin/env bash
# Makes or brings up to date the environment in $1. A sound one is reused; a broken one is made anew.
set -euo pipefail
venv="$1"

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' >/dev/null 2>&1; }

if ! usable "$venv/bin/python"; then
  base=""
  for name in python3.11 python3 python3.12 python3.13; do
    if usable "$name"; then base="$name"; break; fi
  done
  if [ -z "$base" ]; then
    echo "No usable Python: need 3.11 to 3.13 with venv and ensurepip; 'python3' here is" \
      "$(python3 --version 2>&1 || echo missing)." >&2
    echo "On Debian 12:  apt-get install -y python3.11 python3.11-venv" >&2
    exit 1
  fi
  echo "Making $venv with $("$base" --version) ..."
  "$base" -m venv --clear "$venv"
fi

echo "Installing the project and what it needs into $venv (about 6 GB and some minutes the first time) ..."
log="$venv/install.log"
pip=("$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off
  --constraint constraints.txt --editable '.[sim,train,jpeg,lerobot,paligemma,dev]')
if ! "${pip[@]}" 2>"$log.errors" | tee "$log" | awk '
    /^Collecting /           { n++; printf "." ; fflush() }
    /^Installing collected/  { printf " unpacking ..."; fflush() }
    END                      { print "" }'; then
  echo "pip could not install the project; its last words ($log has the rest):" >&2
  grep -v 'is ignored: it is neither' "$log.errors" | tail -n 20 >&2
  exit 1
fi
echo "Environment ready: $("$venv/bin/python" --version), torch" \
  "$("$venv/bin/python" -c 'from importlib.metadata import version; print(version("torch"))')."
