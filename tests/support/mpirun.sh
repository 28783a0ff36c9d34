#!/bin/bash
# Runs a test on several ranks: mpirun.sh RANKS PROGRAM [ARGUMENT]...; exit 77 with a message where there is no mpirun.
# MPIRUN names another one than the first in the path.
set -euo pipefail
ranks=$1
shift
mpirun=${MPIRUN:-mpirun}
if ! command -v "$mpirun" >/dev/null; then
  echo "skipped: mpirun is not installed (apt-get install openmpi-bin)"
  exit 77
fi
export TEST_TRANSPORT=mpi
export ASAN_OPTIONS="${ASAN_OPTIONS:-}:detect_leaks=0" # MPI leaves memory behind at exit
options=(-n "$ranks")
if "$mpirun" --version | grep -q "Open MPI"; then
  options+=(--oversubscribe --bind-to none)
  # more ranks than cores, and containers that do not let processes read each other
  export OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_rmaps_base_oversubscribe=1
  [[ $(id -u) != 0 ]] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
exec timeout 240 "$mpirun" "${options[@]}" "$@"
