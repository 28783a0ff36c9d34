#!/bin/bash
# Proves the README word for word: a bare Debian 12 in DIR, a clean clone of HEAD inside, and the README's two commands
# run there as they are written. For developers; needs root, debootstrap and about 2 GB.
#   scripts/bootstrap_root.sh DIR [MIRROR [COMMAND...]]     commands instead of the README's
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"

if [[ $# -lt 1 || $1 == -* ]]; then
  complain "usage: scripts/bootstrap_root.sh DIR [MIRROR [COMMAND...]]"
  exit 2
fi
if [[ $(id -u) != 0 ]] || ! command -v debootstrap >/dev/null; then
  complain "this needs root and debootstrap (apt-get install debootstrap)"
  exit 4
fi
target=$(realpath -m "$1")
mirror=${2:-http://deb.debian.org/debian}
commands=("${@:3}")
clone=/switchyard
if [[ $target == / ]]; then
  complain "DIR is /, but must be a directory of its own"
  exit 2
fi

# The README's commands are the lines that are a script and nothing else.
if [[ ${#commands[@]} == 0 ]]; then
  mapfile -t commands < <(grep -oE '^ *(bash |\./)?scripts/(quickstart|test)\.sh *$' "$root/README.md" | awk '!seen[$0]++')
  if [[ ${#commands[@]} != 2 ]]; then
    complain "README.md has ${#commands[@]} lines that run scripts/quickstart.sh or scripts/test.sh, but should have both"
    exit 1
  fi
fi

if [[ ! -x $target/usr/bin/apt-get ]]; then
  run debootstrap --variant=minbase bookworm "$target" "$mirror"
fi

unmount() { umount "$target/proc" 2>/dev/null || true; }
trap unmount EXIT
mountpoint -q "$target/proc" || mount -t proc proc "$target/proc"

# This machine's way to the mirror: names, proxies and certificates.
apt-config dump | grep -E '^Acquire::https?::' >"$target/etc/apt/apt.conf.d/90host" || true
for file in /etc/resolv.conf /etc/hosts /etc/ssl/certs/ca-certificates.crt; do
  if [[ -e $file ]]; then install -D -m 644 "$file" "$target$file"; fi
done

rm -rf "${target:?}$clone"
run git -c "safe.directory=$root" clone --quiet --no-hardlinks "$root" "$target$clone"

for command in "${commands[@]}"; do
  say
  say "== in $target: $command"
  start=$SECONDS
  code=0
  chroot "$target" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} \
    bash -c "cd $clone && $command" </dev/null || code=$?
  say "== $command: exit code $code after $((SECONDS - start)) s"
  [[ $code == 0 ]] || exit "$code"
done
