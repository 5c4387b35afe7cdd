#!/bin/sh
# Prints the path of a Python that can hold the virtual environment: 3.10, 3.11 or 3.12, with venv and ensurepip.
# Usage: find_python.sh [PYTHON]      PYTHON: the only one to consider
set -u

if [ $# -eq 0 ]; then
    set -- python3.11 python3.12 python3.10 python3
fi

unsuitable=""
for name; do
    python=$(command -v "$name") || continue
    version=$("$python" -E -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version="?"
    case "$version" in
        3.10 | 3.11 | 3.12)
            if "$python" -E -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$python"
                exit 0
            fi
            reason="lacks venv or ensurepip (Debian, Ubuntu: apt-get install python$version-venv)"
            ;;
        "?") reason="does not run as Python" ;;
        *) reason="is Python $version" ;;
    esac
    unsuitable="$unsuitable
  $python $reason"
done

echo "\
Shardline needs Python 3.10, 3.11 or 3.12 with venv and ensurepip (MindSpore 2.10 has no build for any other).
Found:${unsuitable:- none of $*}
Install one, or name one: make PYTHON=/path/to/python3.11" >&2
exit 1
