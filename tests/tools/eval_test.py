#!/usr/bin/env python3
"""`eval --require` and `eval --against` on checkpoints of one small run.

usage: eval_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import subprocess
import sys
import tempfile

import tiny

SWITCHYARD = os.path.abspath(sys.argv[1])


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *arguments], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    return result


def evaluate(*arguments, code=0):
    result = run("eval", *arguments, "--json", "--no-baselines", code=code)
    value = json.loads(result.stdout)
    return {s["set"]: s for s in value["sets"]}, value, result.stderr


def main():
    tiny.write_text()
    config = tiny.config()
    config["data"]["ood"] = [{"name": "other", "files": "config.json"}]
    config["checkpoint"] = {"every": 10, "keep_last": 5}
    json.dump(config, open("config.json", "w"))
    run("train", "config.json", "--run-dir", "run")
    early, late = "run/checkpoints/step-00000010", "run/checkpoints/step-00000020"

    sets, value, _ = evaluate("run", "--against", early)
    assert value["checkpoint"] == late and value["against"] == {"checkpoint": early, "step": 10}, value
    first = evaluate(early)[0]
    for name in ("held_out", "text", "ood:other"):
        s = sets[name]
        assert s["verdict"] == "better" and s["delta_low"] <= s["delta"] <= s["delta_high"] < 0, s
        assert s["against_loss"] == first[name]["loss"], (s, first[name])
        assert abs(s["delta"] - (s["loss"] - s["against_loss"])) < 1e-12, s
    assert sets["text"]["windows"] == -(-sets["text"]["tokens"] // 32), sets["text"]
    sets, _, message = evaluate(early, "--against", "run", "--require", "held_out.delta<0.01", code=7)
    assert sets["held_out"]["verdict"] == "worse", sets
    measured = sets["held_out"]["delta"]
    assert message.startswith(f"error: held_out.delta is {measured} but must be < 0.01 (exit 7)"), message
    sets, _, _ = evaluate("run", "--against", late, "--require", "held_out.delta<0.01", "--require", "text.delta>=0")
    assert all(s["identical"] and s["delta"] == 0 and s["verdict"] == "no difference shown" for s in sets.values()), sets

    sets, value, message = evaluate("run", "--require", "held_out.bpb<0.1", "--require", "held_out.tokens>10",
                                    "--require", "ood:other.loss>1e9", code=7)
    assert f"held_out.bpb is {sets['held_out']['bpb']} but must be < 0.1; ood:other.loss is " in message, message
    assert [r["met"] for r in value["requirements"]] == [False, True, False], value
    evaluate("run", "--require", "held_out.bpb<100")
    for requirement, expected in (("held_out.bpb", "has no < or >"), ("held_out.delta<1", "needs another model"),
                                  ("held.bpb<1", "names no set that was evaluated; those are held_out, text, ood:other")):
        message = run("eval", "run", "--no-baselines", "--require", requirement, code=2).stderr
        assert expected in message, message
    assert "holds no whole checkpoint" in run("eval", "run", "--against", ".", code=6).stderr

    # text that came later, by folder, in one table
    for folder, lines in (("2024", 40), ("2025", 90)):
        os.makedirs(folder)
        for part in range(3):
            with open(f"{folder}/{part}.txt", "w") as file:
                file.writelines(f"line {i} of {folder} and part {part}\n" for i in range(lines))
    with open("2025/photo.png", "wb") as file:
        file.write(b"\x89PNG\0\xff")
    sets, _, message = evaluate("run", "--data", "2024", "--data", "2025/*", "--data", "tiny.txt", "--require", "2024.tokens>1")
    assert list(sets) == ["2024", "2025/*", "tiny.txt"], sets
    size = sum(os.path.getsize(f"2024/{part}.txt") for part in range(3))
    assert sets["2024"]["tokens"] == size + 2 - 1, (sets, size)  # two ends of documents; the first byte is not predicted
    assert "1 documents of 2025/* are left out; 2025/photo.png is not UTF-8 text" in message, message

    # the same by options of their own, with what each set differs from the first
    for month in ("01", "02"):
        os.makedirs(f"news/2025/{month}", exist_ok=True)
        for part in range(2):
            with open(f"news/2025/{month}/{part}.txt", "w") as file:
                file.writelines(f"item {i} of month {month}, {part}\n" for i in range(50))
    with open("news/old.txt", "w") as file:
        file.write("a text without a date in its path\n" * 9)
    os.utime("news/old.txt", (1577880000, 1577880000))  # 2020-01-01
    os.makedirs("by")
    os.rename("2024", "by/2024"), os.rename("2025", "by/2025")
    sets, _, _ = evaluate("run", "--data", "then=by/2024", "--by-folder", "by", "--by-date", "news")
    assert list(sets) == ["then", "2024", "2025", "2020-01", "2025-01", "2025-02"], list(sets)
    assert sets["then"]["drift_bpb"] == sets["2024"]["drift_bpb"] == 0, sets
    assert sets["2025-02"]["drift_bpb"] == sets["2025-02"]["bpb"] - sets["then"]["bpb"], sets
    size = sum(os.path.getsize(f"news/2025/02/{part}.txt") for part in range(2))
    assert sets["2025-02"]["tokens"] == size + 1 - 1, (sets["2025-02"], size)
    table = run("eval", "run", "--by-folder", "by").stdout
    assert "drift: bits per byte more than on 2024" in table and table.count("\n2025 ") == 1, table
    assert "has no folder in it" in run("eval", "run", "--by-folder", "news/2025/01", code=3).stderr
    # where the checkpoint stands among the evaluations of its run
    assert "the best of the " in run("eval", "run", "--no-baselines").stdout
    assert "step 10; the best was step 20 of its run" in run("eval", early, "--no-baselines").stdout

    # a model of other held-out text is compared with a warning, one that cannot read the windows not at all
    run("train", "config.json", "--run-dir", "seed", "--set", "seed=8", "--steps", "2")
    assert "may have been trained on text that is held out here" in evaluate("run", "--against", "seed")[2]
    run("train", "config.json", "--run-dir", "short", "--set", "model.max_position_embeddings=16", "--set",
        "train.seq_len=16", "--steps", "2")
    assert "reads 16 tokens but run is evaluated on windows of 32" in run("eval", "run", "--against", "short", code=2).stderr
    text = run("eval", "run", "--against", early).stdout
    assert "A - B" in text and "better" in text and "3-gram" in text, text


with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    main()
    os.chdir("/")
print("requirements and comparisons hold")
