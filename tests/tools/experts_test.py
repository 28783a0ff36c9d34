#!/usr/bin/env python3
"""`experts`, `experts simulate`, placements and traces on runs of a tiny model; the page in Chromium where there is one.

usage: experts_test.py SWITCHYARD REPOSITORY
"""

import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import chromium  # noqa: E402
import tiny  # noqa: E402
import trace_events  # noqa: E402

SCRIPT = "<script>alert(1)</script>"


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *arguments], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def train(name, *arguments):
    result = run("train", "config.json", "--run-dir", name, "--json", *arguments)
    return json.loads(result.stdout), result.stderr


def windows(name):
    lines = [json.loads(line) for line in open(f"{name}/experts.jsonl")]
    return [w for w in lines if "layers" in w], [w for w in lines if "evaluation" in w]


def check_csv(recorded, evaluations):
    rows = {kind: [] for kind in ("source", "rank", "evaluation")}
    for row in csv.DictReader(open("load.csv")):
        rows[row["kind"]].append(row)
    tokens = {kind: sum(int(row["tokens"]) for row in some) for kind, some in rows.items()}
    choices = sum(sum(l["tokens_per_expert"]) for w in recorded for l in w["layers"])
    assert tokens["source"] == tokens["rank"] == choices, (tokens, choices)  # nothing was dropped
    assert tokens["evaluation"] == sum(sum(map(sum, s["tokens_per_expert"])) for e in evaluations for s in e["evaluation"])
    assert {row["source"] for row in rows["source"]} == {SCRIPT, "plain"}
    assert {row["source"] for row in rows["evaluation"]} == {SCRIPT, "plain", "ood:other"}
    assert {(row["rank"], row["layer"]) for row in rows["rank"]} == {("0", "0"), ("0", "1")}


def check_reports():
    recorded, evaluations = windows("one")
    report = json.loads(run("experts", "one", "--json").stdout)
    assert recorded[-1]["sources"] == [SCRIPT, "plain"] and [w["step"] for w in recorded] == [5, 10, 15, 20]
    for layer, last in zip(report["layers"], recorded[-1]["layers"]):  # the last quarter: one window
        counts = last["tokens_per_expert"]
        mean = sum(counts) / len(counts)
        assert layer["tokens_per_expert"] == counts and sum(counts) == 2 * last["tokens"] == 2 * 5 * 512
        assert abs(layer["max_over_mean"] - max(counts) / mean) < 1e-12
        assert [sum(c) for c in zip(*last["tokens_by_source"])] == counts
        assert abs(layer["variation"] - (sum((c / mean - 1) ** 2 for c in counts) / len(counts)) ** 0.5) < 1e-12
    assert report["verdict"] in ("balanced", "skewed", "collapsed") and report["sentence"].startswith(report["verdict"])
    assert {s["set"] for s in evaluations[-1]["evaluation"]} >= {SCRIPT, "plain", "ood:other"}, evaluations[-1]
    text = run("experts", "one").stdout
    assert text.startswith(report["sentence"][:60]), text
    train("long", "--set", "log.every=1")  # as many windows as fill the column of the course
    too_wide = [line for line in (text + run("experts", "long").stdout).splitlines() if len(line) > 100]
    assert not too_wide, too_wide
    assert "\x1b" not in text
    run("experts", "one", "--csv", "load.csv", "--html", "load.html")
    check_csv(recorded, evaluations)
    last = evaluations[-1]["evaluation"]
    assert report["evaluation"]["step"] == 20 and report["evaluation"]["evaluation"] == last, report["evaluation"]
    assert "relative use by data source" in text and "relative use by evaluation set" in text, text
    page = open("load.html").read()
    assert SCRIPT not in page and "&lt;script&gt;alert(1)" in page
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", page), "the page refers to something outside"
    assert not re.search(r">-0(\.0*)?<", page), "an axis has a -0"
    assert "no run is given" in run("experts", code=2).stderr
    assert "cannot read" in run("experts", "nowhere", code=2).stderr
    return report


def check_layouts(digest):
    """The recorded numbers, and the bits, are the same on two ranks."""
    two, _ = train("two", "--ranks", "2", "--set", "parallel.ep_size=2")
    assert two["digest"] == digest
    for a, b in zip(windows("one")[0], windows("two")[0]):
        for w in (a, b):
            for layer in w["layers"]:
                del layer["overload"]
        assert a["layers"] == b["layers"]
    assert windows("one")[1] == windows("two")[1]
    assert all(r["rows"] and r["bytes_sent"] > 0 and r["expert_seconds"] > 0 for w in windows("two")[0] for r in w["ranks"])


def check_simulation(digest):
    result = json.loads(run("experts", "simulate", "one", "--ep-size", "2", "--capacity", "1", "--plan", "plan.json", "--json").stdout)
    recorded = windows("one")[0]
    for l, layer in enumerate(result["layers"]):  # steps 1 to 10 are traced
        expected = [sum(c) for c in zip(*(w["layers"][l]["tokens_per_expert"] for w in recorded[:2]))]
        assert layer["tokens_per_expert"] == expected, (layer, expected)
    consecutive, spread = result["layouts"][1:3]
    rows = [[sum(w["ranks"][r]["rows"][l] for w in windows("two")[0][:2]) for r in range(2)] for l in range(2)]
    assert consecutive["rows"] == rows, (consecutive, rows)
    assert spread["overload"] <= consecutive["overload"], result["layouts"]
    assert 0 < result["capacities"][0]["drop_rate"] < 1
    placed, _ = train("placed", "--ranks", "2", "--set", "parallel.ep_size=2", "--set", "parallel.expert_placement=plan.json")
    assert placed["digest"] == digest
    rows = [[sum(w["ranks"][r]["rows"][l] for w in windows("placed")[0][:2]) for r in range(2)] for l in range(2)]
    assert spread["rows"] == rows, (spread, rows)
    auto, said = train("auto", "--ranks", "2", "--set", "parallel.ep_size=2", "--set", "parallel.expert_placement=auto",
                       "--set", "checkpoint.every=5")  # fmt: skip
    assert auto["digest"] == digest and "placed anew" in said, said
    assert [w["step"] for w in windows("auto")[0]] == [5, 10, 15, 20]
    check_placement_after_resume()
    run("experts", "simulate", "one", "--ep-size", "2", "--replicas", "6", "--plan", "copies.json")
    for plan, expected in (("copies.json", "has copies of experts"), ("nothing.json", "cannot read the plan")):
        message = run("train", "config.json", "--run-dir", "refused", "--ranks", "2", "--set",
                      f"parallel.expert_placement={plan}", code=2).stderr  # fmt: skip
        assert expected in message, message
    message = run("train", "config.json", "--run-dir", "refused", "--ranks", "4", "--set", "parallel.expert_placement=plan.json",
                  code=2).stderr  # fmt: skip
    assert "has ep_size 2 but the run has 4" in message, message
    assert "fullest rank" in run("experts", "simulate", "one").stdout


def check_placement_after_resume():
    """A run goes on with the placement of its checkpoint, on as many ranks or on others, and with the same bits."""
    common = ("--set", "parallel.expert_placement=auto", "--set", "checkpoint.every=5", "--set", "log.every=1", "--set",
              "optim.schedule=constant", "--set", "model.initializer_range=0.5")  # fmt: skip
    straight, _ = train("straight", "--ranks", "2", *common)
    _, said = train("resumed", "--ranks", "2", "--steps", "7", *common)
    assert "placed anew" in said, said
    state = json.load(open("resumed/checkpoints/step-00000005/state.json"))["arrays"]
    shutil.copytree("resumed", "wider")
    result, said = train("resumed", "--ranks", "2", *common)
    assert "placed by the load of the checkpoint" in said and result["digest"] == straight["digest"], said
    expected, got = windows("straight")[0], windows("resumed")[0]
    load = [sum(counts) for counts in zip(*(sum((l["tokens_per_expert"] for l in w["layers"]), []) for w in expected[:5]))]
    assert state["placement_load"] == load, (state, load)
    for a, b in zip(expected[:10], got):  # then the experts are placed by the steps that each process has seen
        assert [r["rows"] for r in a["ranks"]] == [r["rows"] for r in b["ranks"]], (a["step"], a["ranks"], b["ranks"])
    consecutive = [sum(l["tokens_per_expert"][:2]) for l in got[7]["layers"]]
    assert got[7]["ranks"][0]["rows"] != consecutive, "step 8 would say the same with consecutive experts"
    result, said = train("wider", "--ranks", "4", *common)
    assert "placed by the load of the checkpoint" in said and result["digest"] == straight["digest"], said


def read_trace(path):
    """Header and records of an expert trace, read as expert_trace.h documents it: {step: (sources, choices)}."""
    data = open(path, "rb").read()
    assert data[:8] == b"SWYTRC1\n"
    (length,) = struct.unpack_from("<I", data, 8)
    header, at, steps = json.loads(data[12 : 12 + length]), 12 + length, {}
    choices = len(header["layers"]) * header["sequences"] * header["seq_len"] * header["slots"]
    while at < len(data):
        (step,) = struct.unpack_from("<q", data, at)
        sources = struct.unpack_from(f"<{header['sequences']}H", data, at + 40)
        steps[step] = sources, struct.unpack_from(f"<{choices}H", data, at + 40 + 2 * header["sequences"])
        at += 48 + 2 * (header["sequences"] + choices)
    return header, steps


def check_trace_of_a_run():
    """Steps traced afterwards are those traced in training, whatever the layout was."""
    run_of_two = ("--ranks", "2", "--set", "parallel.ep_size=2", "--set", "checkpoint.every=4", "--set", "checkpoint.keep_last=9")
    train("traced", *run_of_two, "--set", "log.expert_trace_steps=[5,6,7,10,20]")
    result = run("experts", "traced", "--trace", "20,5,7,10", "-o", "again.bin")
    assert "4 steps traced, 9 trained again" in result.stdout, result  # 5 to 7, 9 and 10, 17 to 20
    assert result.stderr.count("from traced/checkpoints/step-") == 3 and not os.path.exists("again.bin.tmp"), result
    (header, expected), (again, got) = read_trace("traced/expert_trace.bin"), read_trace("again.bin")
    assert list(got) == [5, 7, 10, 20] and all(got[step] == expected[step] for step in got)
    assert header | {"ranks": 1, "ep_size": 1} == again
    simulated = json.loads(run("experts", "simulate", "again.bin", "--ep-size", "2", "--json").stdout)
    assert simulated["steps"] == 4
    assert "is there already" in run("experts", "traced", "--trace", "5", code=2).stderr
    for step, code, expected in ((4, 6, "no whole checkpoint before it"), (21, 2, "is not in traced/metrics.jsonl, which has 1 to 20")):
        message = run("experts", "traced", "--trace", str(step), "-o", "none.bin", code=code).stderr
        assert f"step {step} " in message and expected in message, message
    with open("traced/metrics.jsonl") as file:
        lines = [json.loads(line) for line in file]
    lines[4]["loss"] += 1e-12  # another run's
    with open("traced/metrics.jsonl", "w") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)
    assert "step 5 does not come out as it did" in run("experts", "traced", "--trace", "5", "-o", "none.bin", code=3).stderr
    assert not os.path.exists("none.bin")


def check_phase_trace():
    """The form that Perfetto reads: one track for each rank, complete events that nest in the step."""
    trace = json.load(open("two/trace/step-00000003.json"))
    tracks = trace_events.check(trace)
    named = {(e["tid"], e["args"]["name"]) for e in trace["traceEvents"] if e["ph"] == "M" and e["name"] == "thread_name"}
    assert named == {(0, "rank 0"), (1, "rank 1")} and list(tracks) == [(0, 0), (0, 1)], (named, list(tracks))
    for events in tracks.values():
        assert {"step", "router", "dispatch", "experts forward", "optimizer"} <= {e["name"] for e in events}, events
        step = events[0]
        assert step["name"] == "step" and step["ts"] == 0, step
        assert all(0 <= e["ts"] <= e["ts"] + e["dur"] <= step["dur"] + 0.002 for e in events), events
    assert os.listdir("two/trace") == ["step-00000003.json"]
    for broken in ({"dur": -1}, {"ph": "B"}, {"tid": 7}, {"ts": step["dur"] - 1, "dur": 5}):  # the rules see it
        events = [dict(e) for e in trace["traceEvents"]]
        events[-1] |= broken
        try:
            trace_events.check(trace | {"traceEvents": events})
        except AssertionError:
            continue
        raise AssertionError(f"{broken} passes for a valid trace")


def check_run_report():
    run("report", "one", "two", "-o", "report.html")
    page = open("report.html").read()
    assert SCRIPT not in page and "&lt;script&gt;alert(1)" in page and "training loss" in page and "Expert load of two" in page
    assert not re.search(r"(?:src|href)\s*=|https?://|@import|url\(", page)
    assert "give the directory of a run" in run("report", "nowhere", code=2).stderr


def check_bench():
    transports = ["threads"]
    if shutil.which("mpirun"):
        transports.append("mpi")
    else:
        print("bench moe was not run under MPI: mpirun is not installed (apt-get install openmpi-bin)")
    for transport in transports:
        result = json.loads(run("bench", "moe", "--ranks", "4", "--transport", transport, "--threads", "1", "--tokens", "96",
                                "--hidden", "16", "--width", "16", "--steps", "4", "--json").stdout)  # fmt: skip
        assert (result["transport"], result["ranks"]) == (transport, 4), result
        loads = {w["workload"]: w for w in result["workloads"]}
        assert len(loads) == 8 and not any(w["wrong_values"] for w in loads.values()), loads
        assert loads["balanced"]["overload"] == 1 and loads["hot rank"]["overload"] > 3, loads
        assert 1.3 < loads["idle rank"]["overload"] < 1.4, loads  # three ranks do the work of four
    check_bench_on_a_gpu()
    result = json.loads(run("bench", "recording", "config.json", "--rounds", "2", "--json").stdout)
    assert result["step_seconds"] > 0 and result["trace_bytes_per_step"] > 2 * 2 * 512 * 2, result


def check_bench_on_a_gpu():
    small = ["bench", "moe", "--tokens", "48", "--hidden", "16", "--width", "16", "--steps", "1", "--json"]
    assert "add --device cuda" in run(*small, "--transport", "nccl", code=2).stderr
    result = subprocess.run([SWITCHYARD, *small, "--device", "cuda"], capture_output=True, text=True)
    if result.returncode == 4:
        print("bench moe was not run on a GPU: " + result.stderr.strip())
        return
    assert result.returncode == 0 and not any(w["wrong_values"] for w in json.loads(result.stdout)["workloads"]), result
    assert "needs --transport nccl" in run(*small, "--device", "cuda", "--ranks", "2", code=2).stderr


def check_page(report):
    if not chromium.find():
        print("the page was not looked at: Chromium is not installed (apt-get install chromium)")
        return
    layer = report["layers"][1]
    for width, dark in ((1100, False), (390, True)):
        with chromium.Page(width=width, dark=dark) as page:
            page.open("load.html")
            tip = page.hover("document.querySelectorAll('rect.cell')[4 + 2]")  # 4 experts: layer 1, expert 2
            count = layer["tokens_per_expert"][2]
            assert tip and f"layer {layer['layer']}, expert 2: {count * 4 / sum(layer['tokens_per_expert']):.3f} x" in tip, tip
            assert f"{count} choices" in tip, tip
            dot = page.hover("document.querySelectorAll('circle.dot')[1]")
            assert dot and dot.startswith("layer 0, step 10: "), dot
            assert page.evaluate("document.body.scrollWidth <= innerWidth"), "the page is wider than the screen"
            assert page.evaluate("document.scripts.length") == 1
            assert page.evaluate("document.body.textContent.includes('<script>aler')"), "the source's name is not shown"
            background = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(21, 24, 28)") == dark, background
            page.open("report.html")
            last = json.loads(open("one/metrics.jsonl").readlines()[-1])
            dot = page.hover("document.querySelectorAll('circle.dot')[19]")
            assert dot.split(", ")[1] == f"step 20: {last['loss']:.5g}", (dot, last)  # both runs have the same
            assert page.evaluate("document.body.scrollWidth <= innerWidth"), "the report is wider than the screen"
            assert not page.problems, page.problems


def main():
    for name, words in (("strange", "of stone light house"), ("plain", "0123 4567 89 ++ ")):
        with open(f"{name}.txt", "w") as file:
            file.writelines(f"{words} {i} {words[i % 9:]} {i * 7 % 13}\n" for i in range(400))
    config = tiny.config()
    config["data"]["sources"] = [{"name": SCRIPT, "files": "strange.txt"}, {"name": "plain", "files": "plain.txt"}]
    config["data"]["ood"] = [{"name": "other", "files": "config.json"}]
    config["log"] = {"every": 5, "expert_trace_steps": list(range(1, 11)), "trace_steps": [3]}
    json.dump(config, open("config.json", "w"))
    digest = train("one")[0]["digest"]
    report = check_reports()
    check_layouts(digest)
    check_simulation(digest)
    check_trace_of_a_run()
    check_phase_trace()
    check_run_report()
    check_bench()
    check_page(report)


with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    main()
    os.chdir("/")
print("reports, traces and placements hold")
