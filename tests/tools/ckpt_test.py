#!/usr/bin/env python3
"""ckpt ls, diff, tag and prune on the checkpoints of small runs, and what tags mean elsewhere.

usage: ckpt_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import subprocess
import sys
import tempfile

import tiny

SWITCHYARD = os.path.abspath(sys.argv[1])


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    return result.stdout if code == 0 else result.stderr


def steps(run_dir):
    return sorted(int(name[5:]) for name in os.listdir(f"{run_dir}/checkpoints") if name.startswith("step-"))


def main():
    tiny.write_text()
    config = tiny.config()
    config["checkpoint"] = {"every": 2, "keep_last": 3}
    json.dump(config, open("config.json", "w"))
    train = ["train", "config.json", "--run-dir", "run", "--set", "optim.schedule=constant"]
    run(*train, "--steps", 6)
    assert steps("run") == [2, 4, 6]

    # a tag keeps its checkpoint while the run goes on, and names it everywhere
    run("ckpt", "tag", "run/checkpoints/step-00000002", "early")
    run("ckpt", "tag", "run", "latest-of-six")
    assert "names step-00000002 already" in run("ckpt", "tag", "run", "early", code=2)
    assert "cannot be a tag" in run("ckpt", "tag", "run", "../early", code=2)
    run(*train, "--steps", 12)
    assert steps("run") == [2, 6, 8, 10, 12], steps("run")
    assert json.loads(run("ckpt", "info", "run@early", "--json"))["step"] == 2
    assert json.loads(run("eval", "run@early", "--json", "--no-baselines"))["step"] == 2
    assert json.loads(run("eval", "run", "--json", "--no-baselines"))["step"] == 12
    error = run("eval", "run@late", code=6)
    assert "has the tag late; there are early, latest-of-six" in error, error

    listed = json.loads(run("ckpt", "ls", "run", "--json"))["checkpoints"]
    assert [c["step"] for c in listed] == [12, 10, 8, 6, 2], listed
    assert [c["tags"] for c in listed] == [[], [], [], ["latest-of-six"], ["early"]], listed
    assert len({c["digest"] for c in listed}) == 5 and all(c["bytes"] > 10000 for c in listed)
    os.truncate("run/checkpoints/step-00000008/manifest.json", 10)
    table = run("ckpt", "ls", "run")
    assert "damaged" in table.split("step-00000008")[1].split("\n")[0], table

    # what two of them differ in
    difference = json.loads(run("ckpt", "diff", "run@early", "run", "--json"))
    assert difference["config"] == ["train.stop.steps: 6 there, 12 here"], difference["config"]
    assert difference["equal_weights"] == 0 and len(difference["changed_weights"]) > 10, difference
    same = json.loads(run("ckpt", "diff", "run", "run", "--json"))
    assert same["config"] == [] and not same["changed_weights"] and same["equal_weights"] > 10, same
    assert "train.stop.steps: 6 there, 12 here" in run("ckpt", "diff", "run@early", "run")

    # what may go
    assert "would remove step-00000010" in run("ckpt", "prune", "run", "--keep", 1, "--dry-run")
    assert steps("run") == [2, 6, 8, 10, 12]
    run("ckpt", "tag", "run", "latest-of-six", "--remove")
    assert "there is no tag latest-of-six; there are early" in run("ckpt", "tag", "run", "latest-of-six", "--remove", code=2)
    run("ckpt", "prune", "run", "--keep", 1)
    assert steps("run") == [2, 12], steps("run")
    assert "is whole" in run("ckpt", "verify", "run/checkpoints/step-00000002")
    assert "has no checkpoints" in run("ckpt", "ls", "nowhere", code=6)
    open("run/checkpoints/tags.json", "w").write("{")
    assert "tags.json" in run("ckpt", "ls", "run", code=6)
    run(*train, "--steps", 20)  # what may be wanted is not known then: nothing goes
    assert steps("run") == [2, 12, 14, 16, 18, 20], steps("run")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        main()
