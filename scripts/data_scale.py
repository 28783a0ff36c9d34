#!/usr/bin/env python3
"""What large texts and the data path cost: memory for 2 GB, files beyond 4 GiB, and the share of a step that is data.

Prints a table; --small does the same with little text, as a test; --results also writes it to FILE, with date and commit.

usage: data_scale.py [--switchyard PROGRAM] [--text FILE] [--small] [--results FILE]
"""

import argparse
import datetime
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


def text_at(path, share):
    """The whole lines around a place of a text file, or the text of one line of a .jsonl file."""
    with open(path, "rb") as file:
        file.seek(int(share * os.path.getsize(path)))
        file.readline()
        if path.endswith(".jsonl"):
            return json.loads(file.readline())["text"]
        return b"".join(file.readline() for _ in range(3)).decode()


def check_excerpts(program, directory, config, path):
    """What is read from the file here, at several places of it, stands word for word in the training text."""
    excerpts = [text_at(path, share) for share in (0, 0.3, 0.6, 0.99)] + [words(random.Random(3), 400)]
    with open(os.path.join(directory, "excerpts.jsonl"), "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"text": text}) + "\n" for text in excerpts)
    _, peak, out = measured([program, "data", "overlap", config, "excerpts.jsonl", "train", "--json"], directory)
    found = {document["document"]: document["overlap"] for document in json.loads(out)["documents"]}
    assert found == {f"excerpts.jsonl:{n}": 1 for n in (1, 2, 3, 4)}, found
    return peak


def check_places(program, directory, config, path):
    """The farthest byte among 1,024 samples; each lies in the file."""
    farthest = 0
    _, _, out = measured([program, "data", "which", config, "--step", "7", "--set", "train.batch_tokens=65536", "--json"], directory)
    for sample in json.loads(out)["samples"]:
        length = sum(end - begin for begin, end in (piece["bytes"] for piece in sample["pieces"]))
        assert length + sum(piece["ends_document"] for piece in sample["pieces"]) == 65, sample
        farthest = max([farthest] + [piece["bytes"][1] for piece in sample["pieces"]])
    assert farthest <= os.path.getsize(path), farthest
    return farthest


def large_source(program, directory, name, size, line_of, rows):
    """Trains a few steps on a text of which memory holds a part, and holds the corpus against the file."""
    path = os.path.join(directory, name)
    written, lines = write_text(path, size, line_of)
    data = {"sources": [{"name": "s", "files": name}], "held_out": {"fraction": 0.001, "split": "tail"}}
    config = config_of(directory, data)
    seconds, peak, _ = measured([program, "train", config, "--run-dir", "run-" + name, "--threads", "1", "-q"], directory)
    rows.append((f"{name}: {written / 1e9:.2f} GB, {lines} lines: read, divided, 3 steps, on one thread",
                 f"{seconds:.1f} s, {written / 1e6 / seconds:.0f} MB/s, {peak:.0f} MiB at most"))  # fmt: skip
    with open(os.path.join(directory, f"run-{name}/data.manifest.json"), encoding="utf-8") as file:
        files = json.load(file)["files"]
    assert files[0]["bytes"] == written, (files[0], written)
    used, expected = sum(file["bytes_used"] for file in files), written
    if name.endswith(".jsonl"):
        with open(path, encoding="utf-8") as file:
            expected = sum(len(json.loads(line)["text"]) for line in file)
    assert used == expected, (used, expected)
    peak = check_excerpts(program, directory, config, path)
    rows.append((f"{name}: four excerpts found in it word for word by data overlap", f"{peak:.0f} MiB at most"))
    farthest = check_places(program, directory, config, path)
    if name.endswith(".txt"):
        rows.append((f"{name}: the farthest byte among 1,024 samples", f"{farthest}"))
    os.remove(path)


def sparse(program, directory, size, rows):
    """A text file with a hole is no text, however large, and is named; in a .jsonl file what is around it is read."""
    for name, before, behind in (("hole.txt", "begins like a text\n", "and ends so"),
                                 ("hole.jsonl", '{"text": "before it"}\n', '\n{"text": "behind it"}\n')):  # fmt: skip
        with open(os.path.join(directory, name), "w", encoding="utf-8") as out:
            out.write(before)
            out.truncate(size)
            out.seek(size)
            out.write(behind)
    with open(os.path.join(directory, "beside.txt"), "w", encoding="utf-8") as out:
        out.write(words(random.Random(2), 3000))
    data = {"sources": [{"name": "s", "files": ["hole.txt", "hole.jsonl", "beside.txt"]}],
            "held_out": {"fraction": 0.1, "split": "tail"}, "on_bad_record": "skip"}  # fmt: skip
    seconds, peak, out = measured([program, "data", "inspect", config_of(directory, data), "--json"], directory)
    result = json.loads(out)
    names = result["left_out_names"]["s"]
    assert names["not UTF-8 text"] == ["hole.txt"], names
    bad = names["unreadable as a record (data.on_bad_record)"]
    assert len(bad) == 1 and bad[0].startswith("hole.jsonl:2: "), bad
    assert [s["document"] for s in result["suspects"] if s["kind"] == "binary"] == ["hole.txt"], result["suspects"]
    used = os.path.getsize(os.path.join(directory, "beside.txt")) + len("before it" + "behind it")
    assert sum(s["bytes"] for s in result["sets"]) == used, result["sets"]
    rows.append((f"sparse files of {size / 2**30:.1f} GiB: no text is named, lines around a hole are read",
                 f"{seconds:.1f} s, {peak:.0f} MiB at most"))  # fmt: skip


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
    median = lambda values: sorted(values)[len(metrics) // 2]
    seconds, data = median([m["step_seconds"] for m in metrics]), median([m["phases"]["data"] for m in metrics])
    share = median([m["phases"]["data"] / m["step_seconds"] for m in metrics])
    need = config["train"]["batch_tokens"] / seconds / 1e3
    rows.append((f"bench_small_cpu on {os.path.basename(text)}: data in a step, median of {len(metrics)}",
                 f"{1e6 * data:.0f} us of {1e3 * seconds:.0f} ms, {100 * share:.3f} %; it needs {need:.0f} kB/s"))  # fmt: skip
    assert share < 0.01, share


def write_results(path, program, options, rows):
    version = subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()  # with its commit
    with open(path, "w", encoding="utf-8") as out:
        out.write("# Large texts and the cost of data\n\n")
        out.write(f"{datetime.date.today()}, {version}, `scripts/data_scale.py{' --small' if options.small else ''}`, "
                  f"{len(os.sched_getaffinity(0))} processors.\n\n| what | measured |\n|---|---|\n")  # fmt: skip
        out.writelines(f"| {what} | {value} |\n" for what, value in rows)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--switchyard", default=os.path.join(ROOT, "build/switchyard"))
    parser.add_argument("--text", default="/usr/share/common-licenses/GPL-3")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--results")
    options = parser.parse_args()
    program = os.path.abspath(options.switchyard)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        data_share(program, directory, options.text, 20 if options.small else 200, rows)
        small = 3 * 10**6
        sparse(program, directory, small if options.small else 5 * 2**30, rows)
        large_source(program, directory, "lines.jsonl", small if options.small else 2 * 10**9,
                     lambda i, text: json.dumps({"text": text}), rows)
        large_source(program, directory, "one.txt", small if options.small else 2 * 10**9, lambda i, text: text, rows)
        if not options.small:
            large_source(program, directory, "beyond.txt", 4600 * 10**6, lambda i, text: text, rows)
    width = max(len(row[0]) for row in rows)
    for what, value in rows:
        print(f"| {what:{width}} | {value} |")
    if options.results:
        write_results(options.results, program, options, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
