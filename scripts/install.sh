#!/bin/sh
# Installs a locked requirements file, every hash checked, into .venv, which is created first where there is none.
# Usage: [PYTHON=…] install.sh REQUIREMENTS
#
# While .venv/.installing exists, what .venv holds is unknown: whoever finds it there starts again from nothing.
set -eu

requirements=$1
mark=.venv/.installing

size=
exec 9<requirements-uv.txt
flock 9 # two `make` at once: the second waits

if [ -e $mark ] || ! .venv/bin/python -E -c 'import pip' 2>/dev/null; then
    python=$(scripts/find_python.sh ${PYTHON:+"$PYTHON"})
    echo "Creating .venv with $python"
    size=' (about 1.2 GB to download, 3.1 GB on disk)'
    rm -rf .venv
    mkdir .venv
    : >$mark
    "$python" -E -m venv .venv
fi

: >$mark
echo "Installing $requirements into .venv$size"
.venv/bin/python -E -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
.venv/bin/python -E -m uv pip install --quiet --python .venv/bin/python --require-hashes -r "$requirements"
rm $mark
