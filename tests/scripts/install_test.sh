#!/bin/bash
# The installation with stand-ins for the system's commands: it asks nothing of the network when all is there, names
# what is missing, and says what to do where it may not install.
# shellcheck disable=SC2016,SC2034 # conditions are evaluated by expect
set -euo pipefail
scripts=$(cd "$(dirname "$0")/../../scripts" && pwd)
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT

stand_in() { printf '#!/bin/bash\n%s\n' "$2" >"$directory/bin/$1" && chmod +x "$directory/bin/$1"; }
reset() {
  rm -rf "${directory:?}/bin" "$directory/calls"
  mkdir "$directory/bin"
  touch "$directory/calls"
  for tool in bash dirname env cat; do ln -s "$(command -v "$tool")" "$directory/bin/$tool"; done
  stand_in dpkg-query 'for package in "$@"; do :; done
[[ " $ABSENT " == *" $package "* ]] && exit 1
echo installed'
  stand_in apt-get "echo \"apt-get \$*, \$DEBIAN_FRONTEND\" >>'$directory/calls'; exit \"\${APT_EXIT:-0}\""
  stand_in id 'echo "${USER_ID:-0}"'
  stand_in sudo "echo sudo >>'$directory/calls'; exec \"\$@\""
}
install() {
  code=0
  output=$(env -i PATH="$directory/bin" "$@" bash "$scripts/install.sh" 2>&1) || code=$?
  calls=$(cat "$directory/calls")
}
expect() {
  if ! eval "$2"; then
    printf 'FAILED: %s: not true: %s\ncode %s, output:\n%s\ncalls:\n%s\n' "$1" "$2" "$code" "$output" "$calls"
    exit 1
  fi
  echo "ok: $1"
}

reset
install
expect "nothing is run when all is installed" '[[ $code == 0 && -z $calls && $output == *"packages are installed"* ]]'

reset
install ABSENT="meson zlib1g-dev"
expect "only what is missing is installed" \
  '[[ $code == 0 && $calls == *"apt-get install -y --no-install-recommends meson zlib1g-dev, noninteractive" ]]'
expect "package lists are brought up to date first" '[[ $calls == "apt-get update, noninteractive"* ]]'
expect "each command is printed" '[[ $output == *"$ env DEBIAN_FRONTEND=noninteractive apt-get update"* ]]'
expect "root needs no sudo" '[[ $calls != *sudo* ]]'

reset
install ABSENT=meson USER_ID=1000
expect "others use sudo and are told so" '[[ $code == 0 && $calls == sudo* && $output == *"installing with sudo"* ]]'

reset
rm "$directory/bin/sudo"
install ABSENT=meson USER_ID=1000
expect "without sudo the command for an administrator is printed" \
  '[[ $code == 4 && -z $calls && $output == *"ask an administrator"*"apt-get install --no-install-recommends meson"* ]]'

reset
install ABSENT=meson APT_EXIT=100
expect "a failed installation ends with 4 and names the packages" \
  '[[ $code == 4 && $output == *"could not install meson"* ]]'

reset
rm "$directory/bin/apt-get"
install
expect "another system is told what is needed" '[[ $code == 4 && $output == *"not found: c++ meson ninja"* ]]'

reset
rm "$directory/bin/apt-get"
for tool in c++ meson ninja pkg-config python3; do stand_in "$tool" true; done
install
expect "another system with the tools goes on" '[[ $code == 0 && $output == *"what Debian calls"*libzstd-dev* ]]'
