#!/bin/bash
# Installs the Debian packages that a build needs; says so and does nothing when they are there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname "$0")/lib.sh"
install_packages
