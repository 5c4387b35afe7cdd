#!/bin/sh
# Lets Docker Compose check docker/compose*.yaml, where there is one; no container engine is needed.
set -eu

if docker compose version >/dev/null 2>&1; then
    set -- docker compose
elif command -v docker-compose >/dev/null; then
    set -- docker-compose
else
    echo "docker/compose.yaml: not checked, Docker Compose is not installed"
    exit 0
fi
set -- "$@" --project-directory docker --env-file docker/.env.example -f docker/compose.yaml
"$@" config -q
"$@" -f docker/compose.ascend.yaml config -q
echo "docker/compose.yaml, docker/compose.ascend.yaml: checked by $1"
