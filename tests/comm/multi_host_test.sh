#!/bin/bash
# Ranks on two and four hosts, which are network namespaces of this one: collectives, and the digest of a training run.
# usage: multi_host_test.sh SWITCHYARD REPOSITORY GROUP_TEST; exit 77 where no such hosts can be made
set -euo pipefail
switchyard=$1 root=$2 group_test=$3
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
hosts() { timeout 120 bash "$root/scripts/multi_host.sh" "$@"; }

code=0
hosts 2 1 true >out 2>&1 || code=$?
if [[ $code == 77 ]]; then
  cat out
  exit 77
fi
[[ $code == 0 ]] || { echo "FAILED: two hosts do nothing: exit $code"; cat out; exit 1; }

for count in 2 4; do
  hosts "$count" 1 env TEST_TRANSPORT=mpi "$group_test" >out 2>&1 || { echo "FAILED: collectives on $count hosts"; cat out; exit 1; }
  echo "ok: collectives on $count hosts"
done

for i in $(seq 1 400); do echo "line $i of a text in which $((i * 7 % 13)) follows $((i * 7 % 12)) and so on"; done >tiny.txt
cp "$root/configs/tiny.json" tiny.json
digest() { python3 -c 'import json, sys; print(json.loads(sys.stdin.read().splitlines()[-1])["digest"])'; }
expected=$("$switchyard" train tiny.json --run-dir one --json 2>/dev/null | digest)
got=$(hosts 2 2 "$switchyard" train tiny.json --transport mpi --run-dir many --json 2>err | digest) || { cat err; exit 1; }
[[ $got == "$expected" ]] || { echo "FAILED: digest $got on two hosts of two ranks but $expected on one rank"; exit 1; }
grep -q "4 as mpi" err || { echo "FAILED: not four ranks"; cat err; exit 1; }
echo "ok: the digest on two hosts of two ranks"

code=0
hosts 2 1 bash -c '"$0" train tiny.json --run-dir differ --set seed=$OMPI_COMM_WORLD_RANK' "$switchyard" >out 2>err || code=$?
if [[ $code != 4 ]] || ! grep -q "the config of rank 1 on host2 is .* but that of rank 0 on host1 is" err; then
  echo "FAILED: configs that differ between hosts: exit $code"
  cat err
  exit 1
fi
echo "ok: a config that differs is named with its host"
