#!/bin/bash
# The image on CANN: its libraries' environment first, then Airflow's command line, or bash or python, like the official image.
set -eo pipefail

# shellcheck disable=SC1091
source /usr/local/Ascend/ascend-toolkit/set_env.sh
case "$1" in
    bash | python | airflow) exec "$@" ;;
    *) exec airflow "$@" ;;
esac
