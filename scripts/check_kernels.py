#!/usr/bin/env python3
"""Holds the kernels to their namespaces: what was compiled for one instruction set may not be linked elsewhere.

usage: check_kernels.py BUILD_DIR

The linker keeps one copy of a function it finds several times. Were a template of the standard library in a kernel's
object, ordinary code could end up with the copy that needs AVX-512 and die on a machine without it.
"""

import glob
import os
import re
import subprocess
import sys

from source_tree import report

ALLOWED = re.compile(r"^DW\.ref\.")  # pointers to the exception handler: data, the same in every object


def foreign_symbols(listing, target):
    """Symbols defined for others to see in nm's listing, outside the target's namespace."""
    found = []
    for line in listing.splitlines():
        match = re.match(r"[0-9a-f]* +([A-Zu]) (.*)$", line)
        if match and match[1] != "U" and f"::{target}::" not in match[2] and not ALLOWED.match(match[2]):
            found.append(match[2])
    return found


def check_build(build):
    problems, count = [], 0
    for folder in sorted(glob.glob(os.path.join(build, "libkernels_*.a.p"))):
        target = re.search(r"libkernels_(\w+)\.a\.p$", folder)[1]
        for path in sorted(glob.glob(os.path.join(folder, "*.o"))):
            count += 1
            listing = subprocess.run(["nm", "-C", path], capture_output=True, check=True, text=True).stdout
            problems += [f"{path}: defines {symbol}, which should be in namespace {target} or have internal linkage"
                         for symbol in foreign_symbols(listing, target)]
    if count == 0:
        problems.append(f"{build}: no objects of kernels: compile first, and name the build directory")
    return problems, f"{count} objects define nothing outside their namespaces"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(report("check_kernels", *check_build(sys.argv[1])))
