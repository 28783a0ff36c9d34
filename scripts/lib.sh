# For sourcing: where the repository is, steps that are printed before they run, and the packages a build needs.
# shellcheck shell=bash

# shellcheck disable=SC2034 # used by who sources this
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# What the scripts and the build call; CI has no terminal to answer questions at.
packages=(g++ meson ninja-build pkg-config nlohmann-json3-dev libcli11-dev doctest-dev libssl-dev libxxhash-dev
  zlib1g-dev libzstd-dev)

say() { printf '%s\n' "$*"; }
complain() { printf '%s\n' "$*" >&2; }

# Prints a command as one would type it, then runs it.
run() {
  local line="" word
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=+,@%-]+$ ]]; then line+=" $word"; else line+=" '${word//\'/\'\\\'\'}'"; fi
  done
  say "\$$line"
  "$@"
}

# The packages of the list that are not installed.
missing_packages() {
  local package status
  for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=""
    [[ $status == installed ]] || say "$package"
  done
}

# How to become root, as a prefix: nothing for root itself, sudo where there is one.
become_root() {
  if [[ $(id -u) == 0 ]]; then
    return
  elif command -v sudo >/dev/null; then
    say sudo
  else
    complain "packages are missing, but this is not root and there is no sudo; ask an administrator to run:"
    complain "  apt-get install --no-install-recommends ${missing[*]}"
    exit 4
  fi
}

# Installs what is missing; nothing is asked of the network when nothing is.
install_packages() {
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    expect_tools
    return
  fi
  local missing prefix
  mapfile -t missing < <(missing_packages)
  if [[ ${#missing[@]} == 0 ]]; then
    say "all ${#packages[@]} packages are installed"
    return
  fi
  prefix=$(become_root) || exit 4
  say "missing: ${missing[*]}${prefix:+ (installing with $prefix)}"
  # shellcheck disable=SC2086 # an empty prefix is no word
  run $prefix env DEBIAN_FRONTEND=noninteractive apt-get update ||
    complain "apt-get update failed: going on with the package lists that are here"
  # shellcheck disable=SC2086
  if ! run $prefix env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"; then
    complain "apt-get could not install ${missing[*]}: see its message above, then run this script again"
    exit 4
  fi
}

# Other systems have other names for packages: say what is needed, and go on if the tools are there.
expect_tools() {
  local tool absent=()
  say "this system has no apt-get: a build needs what Debian calls ${packages[*]}"
  for tool in c++ meson ninja pkg-config python3; do
    command -v "$tool" >/dev/null || absent+=("$tool")
  done
  if [[ ${#absent[@]} != 0 ]]; then
    complain "not found: ${absent[*]}; install these and the libraries above, then run this script again"
    exit 4
  fi
}

# Configures a build directory unless it is there already; ccache is used where it is installed.
configure() {
  local directory=$1
  shift
  if [[ -f $directory/build.ninja ]]; then
    say "using $directory, which is configured already"
    return
  fi
  if [[ -z ${CXX:-} ]] && command -v ccache >/dev/null && command -v g++ >/dev/null; then
    export CXX="ccache g++"
  fi
  run meson setup "$directory" "$@"
}
