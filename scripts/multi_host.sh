#!/bin/bash
# Hosts on one machine: network namespaces joined by a bridge, each with its own host name and address, and ranks on all
# of them through Open MPI's mpirun, which reaches them as it would by ssh. Needs root.
# usage: scripts/multi_host.sh HOSTS RANKS_PER_HOST COMMAND [ARGUMENT]...
#   scripts/multi_host.sh 2 2 build/switchyard train configs/tiny.json --run-dir runs/two-hosts
# Exit 77 with a message where the machine does not allow it, else the exit code of mpirun.
set -euo pipefail

if [[ $# -lt 3 ]]; then
  sed -n '2,6s/^# //p' "$0" >&2
  exit 2
fi
hosts=$1 ranks=$2
shift 2
for tool in ip unshare mpirun; do
  if ! command -v "$tool" >/dev/null; then
    echo "skipped: $tool is not installed (apt-get install iproute2 util-linux openmpi-bin)"
    exit 77
  fi
done

prefix="sw$$"
bridge="$prefix-br"
work=$(mktemp -d)
clean_up() {
  local i
  for ((i = 1; i <= hosts; i++)); do ip netns delete "$prefix-$i" 2>/dev/null || true; done
  ip link delete "$bridge" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT

if ! ip link add "$bridge" type bridge 2>"$work/error" || ! ip link set "$bridge" up 2>>"$work/error"; then
  echo "skipped: no network can be made here: $(head -n 1 "$work/error")"
  exit 77
fi
for ((i = 1; i <= hosts; i++)); do
  if ! ip netns add "$prefix-$i" 2>"$work/error"; then
    echo "skipped: no network namespace can be made here: $(head -n 1 "$work/error")"
    exit 77
  fi
  ip link add "$prefix-e$i" type veth peer name eth0 netns "$prefix-$i"
  ip link set "$prefix-e$i" master "$bridge" up
  ip -n "$prefix-$i" address add "10.77.0.$i/24" dev eth0
  ip -n "$prefix-$i" link set eth0 up
  ip -n "$prefix-$i" link set lo up
  echo "10.77.0.$i slots=$ranks" >>"$work/hosts"
done

# What mpirun calls instead of ssh: HOST COMMAND...
cat >"$work/agent" <<AGENT
#!/bin/bash
number=\${1##*.}
shift
exec ip netns exec "$prefix-\$number" unshare --uts bash -c 'hostname "host\$0" && eval "\$1"' "\$number" "\$*"
AGENT
chmod +x "$work/agent"

export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
code=0
"$work/agent" 10.77.0.1 "cd '$PWD' && exec mpirun -n $((hosts * ranks)) --hostfile '$work/hosts' --map-by node --bind-to none \
  --quiet --mca plm_rsh_agent '$work/agent' --mca orte_keep_fqdn_hostnames 1 --mca btl tcp,self \
  --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 --mca mpi_yield_when_idle 1 \
  $(printf '%q ' "$@")" || code=$?
exit "$code"
