#!/usr/bin/env python3
"""What large texts and the data path cost: memory for 2 GB, a file beyond 4 GiB, and the share of a step that is data.

Prints a table; --small does the same with little text, as a test.

usage: data_scale.py [--switchyard PROGRAM] [--text FILE] [--small]
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
MODEL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "num_experts": 4, "num_experts_per_tok": 2,
         "moe_intermediate_size": 48, "max_position_embeddings": 64}


def words(rng, count):
    return " ".join("".join(rng.choice("etaoinshrdlucmf") for _ in range(rng.randrange(2, 9))) for _ in range(count))


def write_text(path, size, line_of):
    """Lines until the file has this size; no two are alike."""
    rng = random.Random(1)
    blocks = [words(rng, 160) for _ in range(997)]
    written = number = 0
    with open(path, "w", encoding="utf-8") as out:
        while written < size:
            piece = "".join(line_of(number + i, blocks[(number + i) * 7 % 997] + f" {number + i} ") + "\n" for i in range(500))
            out.write(piece)
            written += len(piece)
            number += 500
    return written, number


def measured(command, directory):
    """Seconds and the largest resident size in MiB of a command."""
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, err = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, err
    return time.monotonic() - start, usage.ru_maxrss / 1024, out


def config_of(directory, data, steps=3):
    path = os.path.join(directory, "config.json")
    with open(path, "w", encoding="utf-8") as out:
        json.dump({"name": "scale", "model": MODEL, "data": data,
                   "train": {"seq_len": 64, "batch_tokens": 512, "granules": 4, "stop": {"steps": steps}},
                   "eval": {"max_tokens": "4k", "samples": 0, "baselines": False}}, out)
    return path


def large_source(program, directory, name, size, line_of, rows):
    """Trains a few steps on a text of which memory holds a part, and looks up where the last sample stands."""
    written, lines = write_text(os.path.join(directory, name), size, line_of)
    data = {"sources": [{"name": "s", "files": name}], "held_out": {"fraction": 0.001, "split": "tail"}}
    config = config_of(directory, data)
    seconds, peak, _ = measured([program, "train", config, "--run-dir", "run-" + name, "--threads", "1", "-q"], directory)
    rows.append((f"{name}: {written / 1e9:.2f} GB, {lines} lines: read, divided, 3 steps", f"{seconds:.1f} s, {peak:.0f} MiB at most"))
    manifest = json.load(open(os.path.join(directory, f"run-{name}/data.manifest.json"), encoding="utf-8"))
    assert manifest["files"][0]["bytes"] == written, (manifest["files"][0], written)
    used = sum(file["bytes_used"] for file in manifest["files"])
    expected = written if name.endswith(".txt") else sum(len(json.loads(line)["text"]) for line in open(os.path.join(directory, name)))
    assert used == expected, (used, expected)
    farthest = 0
    for step in (1, 7, 1001):
        _, _, out = measured([program, "data", "which", config, "--step", str(step), "--json"], directory)
        for sample in json.loads(out)["samples"]:
            for piece in sample["pieces"]:
                if name.endswith(".txt"):
                    with open(os.path.join(directory, name), "rb") as file:
                        file.seek(piece["bytes"][0])
                        assert len(file.read(piece["bytes"][1] - piece["bytes"][0])) == piece["bytes"][1] - piece["bytes"][0]
                farthest = max(farthest, piece["bytes"][1])
    if name.endswith(".txt"):
        rows.append((f"{name}: the farthest byte among the samples of three steps", str(farthest)))
    os.remove(os.path.join(directory, name))


def holes(program, directory, size, rows):
    """A sparse file is no text, however large, and is named; the text beside it is used."""
    with open(os.path.join(directory, "sparse.txt"), "wb") as out:
        out.write(b"begins like a text\n")
        out.truncate(size)
        out.seek(size - 10)
        out.write(b"and ends so")
    with open(os.path.join(directory, "beside.txt"), "w", encoding="utf-8") as out:
        out.write(words(random.Random(2), 3000))
    data = {"sources": [{"name": "s", "files": ["sparse.txt", "beside.txt"]}], "held_out": {"fraction": 0.1, "split": "tail"}}
    seconds, peak, out = measured([program, "data", "inspect", config_of(directory, data), "--json"], directory)
    result = json.loads(out)
    assert result["left_out"]["s"] == {"not UTF-8 text": 1}, result["left_out"]
    assert [s["document"] for s in result["suspects"] if s["kind"] == "binary"] == ["sparse.txt"], result["suspects"]
    rows.append((f"a sparse file of {size / 2**30:.1f} GiB is found to be no text", f"{seconds:.1f} s, {peak:.0f} MiB at most"))


def data_share(program, directory, text, steps, rows):
    """The share of a step of bench_small_cpu that goes to data, on real text."""
    with open(os.path.join(ROOT, "configs/bench_small_cpu.json"), encoding="utf-8") as file:
        config = json.load(file)
    del config["$schema"]
    config["data"] = {"sources": [{"name": "text", "files": os.path.abspath(text)}], "held_out": {"fraction": 0.05, "split": "tail"}}
    config["train"]["stop"] = {"steps": steps}
    with open(os.path.join(directory, "bench.json"), "w", encoding="utf-8") as out:
        json.dump(config, out)
    measured([program, "train", "bench.json", "--run-dir", "bench", "-q"], directory)
    with open(os.path.join(directory, "bench/metrics.jsonl"), encoding="utf-8") as file:
        metrics = [json.loads(line) for line in file][2:]
    shares = sorted(m["phases"]["data"] / m["step_seconds"] for m in metrics)
    share = shares[len(shares) // 2]
    rows.append((f"bench_small_cpu on {os.path.basename(text)}: data in a step, median of {len(shares)}", f"{100 * share:.2f} %"))
    assert share < 0.01, share


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build/switchyard"))
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--small", action="store_true")
    options = parser.parse_args()
    program = os.path.abspath(options.switchyard)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        data_share(program, directory, options.text, 20 if options.small else 200, rows)
        small = 3 * 10**6
        holes(program, directory, small if options.small else 5 * 2**30, rows)
        large_source(program, directory, "lines.jsonl", small if options.small else 2 * 10**9,
                     lambda i, text: json.dumps({"text": text}), rows)
        large_source(program, directory, "one.txt", small if options.small else 2 * 10**9, lambda i, text: text, rows)
        if not options.small:
            large_source(program, directory, "beyond.txt", 4600 * 10**6, lambda i, text: text, rows)
    width = max(len(row[0]) for row in rows)
    for what, value in rows:
        print(f"| {what:{width}} | {value} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
