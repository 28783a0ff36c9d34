"""The files of the repository, for the checks: those git knows or would add, without build and run directories."""

import os
import re
import subprocess


def repository_root():
    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def source_files(root, pattern=""):
    """Paths relative to root, sorted, whose name matches the regular expression."""
    return sorted(path for path in list_files(root) if re.search(pattern, path))


def list_files(root):
    command = ["git", "-c", "safe.directory=" + root, "-C", root]
    command += ["ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\0")
        if any(listed):
            return [path for path in listed if path and os.path.isfile(os.path.join(root, path))]
    except (OSError, subprocess.CalledProcessError):
        pass  # an archive without history, or no git
    found = []
    for folder, folders, files in os.walk(root):
        top = folder == root
        folders[:] = [name for name in folders if name not in (".git", "__pycache__")
                      and not (top and (name == "runs" or name.startswith("build")))]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return found


def read_lines(root, path):
    with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


def report(name, problems, checked):
    """Prints each problem and the verdict; the exit code to end with."""
    for problem in problems:
        print(problem)
    if problems:
        print(f"{name}: {len(problems)} problems")
        return 1
    print(f"{name}: {checked}")
    return 0
