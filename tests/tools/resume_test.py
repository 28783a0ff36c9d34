#!/usr/bin/env python3
"""How a run goes on: changes of the config and the text, what is left of interrupted saves, going back, spikes, signals.

usage: resume_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import tiny

SWITCHYARD = os.path.abspath(sys.argv[1])


def run(*arguments, code=0):
    """The last line of stdout as JSON, and stderr."""
    result = subprocess.run([SWITCHYARD, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    lines = result.stdout.splitlines()
    return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else None, result.stderr


def train(directory, *arguments, code=0):
    return run("train", "config.json", "--run-dir", directory, "--json", *arguments, code=code)


def checkpoints(directory):
    return sorted(name for name in os.listdir(f"{directory}/checkpoints") if "step-" in name)


def steps_logged(directory, log):
    return [json.loads(line)["step"] for line in open(f"{directory}/{log}")]


def write_config(**changes):
    config = tiny.config()
    config["checkpoint"] = {"every": 5, "keep_last": 10}
    config["optim"]["schedule"] = "constant"
    for key, value in changes.items():
        config.setdefault(key, {}).update(value)
    json.dump(config, open("config.json", "w"))


def check_changes():
    write_config()
    train("changed", "--steps", 5)
    result, log = train("changed", "--steps", 6, "--set", "optim.lr=0.002", "--set", "log.every=1")
    assert result["step"] == 6
    assert "another course: optim.lr: 0.003 there, 0.002 here" in log, log
    assert "another course: log.every" not in log and "log.every: 5 there, 1 here" in log, log
    _, error = train("changed", "--steps", 7, "--set", "seed=8", "--set", "train.granules=2", code=6)
    assert "seed: 7 there, 8 here; train.granules: 4 there, 2 here" in error and "--allow-change seed" in error, error
    _, error = train("changed", "--steps", 7, "--set", "seed=8", "--allow-change", "sed", code=2)
    assert "no key of a config is called so" in error, error
    result, log = train("changed", "--steps", 7, "--set", "seed=8", "--allow-change", "seed")
    assert result["step"] == 7 and "another course: seed: 7 there, 8 here" in log, log
    # the same text under another name is the same training; another text is another one
    shutil.copy("tiny.txt", "copy.txt")
    result, log = train("changed", "--steps", 8, "--set", "seed=8", "--set", "data.sources[0].files=copy.txt")
    assert result["step"] == 8 and 'data.sources[0].files[0]: "tiny.txt" there, "copy.txt" here' in log, log
    tiny.write_text("copy.txt", 400, first=1)
    more = ("--set", "seed=8", "--set", "data.sources[0].files=copy.txt")
    _, error = train("changed", "--steps", 9, *more, code=6)
    assert "the text: hash" in error and "--allow-change data" in error, error
    result, log = train("changed", "--steps", 9, *more, "--allow-change", "data")
    assert result["step"] == 9 and "another course: the text" in log, log
    result, log = train("changed", "--steps", 10, *more)
    assert result["step"] == 10 and "the text" not in log, log
    # all of that is in the lineage
    newest = run("ckpt", "ls", "changed", "--json")[0]["checkpoints"][0]
    assert [a["step"] for a in newest["ancestors"]] == [5, 6, 7, 8, 9], newest
    assert {a["run"] for a in newest["ancestors"]} == {newest["run"]}, newest
    changes = [a["changes"] for a in newest["ancestors"]]
    assert "optim.lr: 0.003 there, 0.002 here" in changes[0] and "seed: 7 there, 8 here" in changes[1], changes
    assert newest["ancestors"][4]["text_hash"] == newest["text_hash"] != newest["ancestors"][3]["text_hash"], newest


def check_leftovers(digest):
    os.makedirs("left/checkpoints/.tmp-step-00000005")
    for mode in ("auto", "must"):
        _, error = train("left", "--resume", mode, code=6)
        assert ".tmp-step-00000005" in error and "--resume never" in error, error
    result, _ = train("left", "--resume", "never")
    assert result["digest"] == digest
    assert checkpoints("left") == [f"step-{step:08d}" for step in (5, 10, 15, 20)], checkpoints("left")
    _, error = train("left", "--resume", "never", code=6)
    assert "nothing is overwritten" in error, error
    # damaged ones are passed over by name, set aside, and made anew
    os.truncate("left/checkpoints/step-00000020/state.json", 10)
    os.remove("left/checkpoints/step-00000015/COMMIT")
    result, log = train("left", "--ranks", 2)
    assert result["digest"] == digest and "step-00000020/state.json has 10 bytes" in log and "step-00000015/COMMIT" in log, log
    assert "abandoned-step-00000015" in checkpoints("left") and "abandoned-step-00000020" in checkpoints("left")
    for name in checkpoints("left"):
        if name.startswith("step-"):
            os.truncate(f"left/checkpoints/{name}/manifest.json", 10)
    _, error = train("left", code=6)
    assert "is whole" in error and "step-00000005/manifest.json" in error, error
    _, error = train("elsewhere", "--resume", "left/checkpoints/step-00000005", code=6)
    assert "is not whole" in error, error


def check_rollback(digest):
    train("back")
    run("ckpt", "tag", "back/checkpoints/step-00000015", "fifteen")
    _, error = train("back", "--rollback", 7, code=6)
    assert "no checkpoint step-00000007" in error and "step-00000010" in error, error
    _, error = train("back", "--rollback", 5, "--resume", "must", code=2)
    result, log = train("back", "--rollback", 10, "--ranks", 4, "--steps", 12)
    assert result["step"] == 12 and "abandoned-step-00000020" in log, log
    assert checkpoints("back") == ["abandoned-step-00000015", "abandoned-step-00000020", "step-00000005", "step-00000010",
                                   "step-00000012"], checkpoints("back")
    info, _ = run("ckpt", "info", "back@fifteen", "--json")
    assert info["step"] == 15 and "abandoned" in info["path"], info
    assert steps_logged("back", "metrics.jsonl") == list(range(1, 13))
    assert steps_logged("back", "metrics.abandoned.jsonl") == list(range(11, 21))
    assert set(steps_logged("back", "experts.abandoned.jsonl")) == {15, 20}
    result, _ = train("back", "--set", "train.stop.steps=20")
    assert result["digest"] == digest, "the same steps again"
    _, error = train("back", "--resume", "left/checkpoints/step-00000005", code=6)
    assert "has checkpoints of its own" in error, error


def check_lock():
    first = subprocess.Popen([SWITCHYARD, "train", "config.json", "--run-dir", "locked", "--set", "train.stop.steps=1000000"],
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not os.path.exists("locked/metrics.jsonl"):
            time.sleep(0.01)
        _, error = train("locked", code=8)
        assert re.search(rf"in use by process {first.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d", error), error
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(60) == 75


def check_spikes():
    """A few lines unlike all others, in a file of their own."""
    os.makedirs("texts")
    tiny.write_text("texts/a.txt", 900)
    with open("texts/b.txt", "w") as file:
        file.write("".join(chr(0x4E00 + i * i * 7919 % 20000) for i in range(22)))
    write_config(data={"sources": [{"name": "text", "files": "texts/*.txt"}], "held_out": {"fraction": 0}},
                 train={"stop": {"steps": 60}, "spike_z": 8})
    every = ("--set", "checkpoint.every=6")
    _, log = train("logged")
    spikes = re.findall(r"step (\d+) is a spike.*its update is applied; samples (\d+) to (\d+) from (.*)", log)
    assert spikes and all("texts/b.txt" in where for *_, where in spikes), log
    logged = [json.loads(line) for line in open("logged/metrics.jsonl")]
    assert [line["step"] for line in logged if line.get("spike") == "logged"] == [int(step) for step, *_ in spikes]

    digests = set()
    for ranks in (1, 2, 4):
        result, log = train(f"rolled-{ranks}", *every, "--set", "train.on_spike=rollback", "--ranks", ranks)
        digests.add(result["digest"])
        assert result["step"] == 60 and "texts/b.txt" in log, log
        assert steps_logged(f"rolled-{ranks}", "metrics.jsonl") == list(range(1, 61))
        state = json.load(open(f"rolled-{ranks}/checkpoints/step-00000060/state.json"))
        rollbacks = log.count("the run goes back")
        assert state["arrays"]["spikes"] == [0, rollbacks] and 1 <= rollbacks <= 3, (state["arrays"]["spikes"], log)
        first, last = spikes[0][1:3]
        assert state["arrays"]["excluded_samples"][:2] == [int(first), int(last) + 1], state["arrays"]["excluded_samples"]
    # stopped at steps of its own and gone on with, it goes back to the same place
    assert int(spikes[0][0]) == 41, spikes
    train("rolled-stopped", *every, "--set", "train.on_spike=rollback", "--set", "train.stop.steps=38")
    result, log = train("rolled-stopped", *every, "--set", "train.on_spike=rollback", "--ranks", 2)
    assert "rolled-stopped/checkpoints/abandoned-step-00000038" in log, log
    digests.add(result["digest"])
    assert len(digests) == 1, digests
    assert result["digest"] != train("skipped", "--set", "train.on_spike=skip")[0]["digest"]
    assert '"spike":"skipped"' in open("skipped/metrics.jsonl").read()

    # far too easily: three rollbacks, then the end; and none without a checkpoint
    _, error = train("too-many", "--set", "train.on_spike=rollback", "--set", "train.spike_z=0.5", "--set", "checkpoint.every=1", "--steps", 40, code=5)
    assert "after 3 rollbacks" in error, error
    _, error = train("none", "--set", "train.on_spike=rollback", "--set", "train.spike_z=0.5", "--set", "checkpoint.every=100", "--steps", 40, code=5)
    assert "no checkpoint" in error, error


def main():
    tiny.write_text("tiny.txt", 400)
    write_config()
    digest = train("whole")[0]["digest"]
    check_changes()
    check_leftovers(digest)
    check_rollback(digest)
    check_lock()
    check_spikes()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        main()
