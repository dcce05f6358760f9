#!/usr/bin/env bash
# Writes the hash-pinned constraints again from the extras of pyproject.toml: `make constraints`.
# One file serves Python 3.11 to 3.13 (environment markers), and no file names an index: that is the installer's business.
set -euo pipefail
cd "$(dirname "$0")/.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"${PYTHON:-python3}" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet uv

compile() {
    "$scratch/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --upgrade "$@" pyproject.toml
}
compile --extra dev --output-file .ci/constraints.txt
# The container image needs the server alone, at the versions that the tests ran with.
compile --extra build --extra server --constraint .ci/constraints.txt --output-file .ci/constraints-server.txt
