#!/usr/bin/env python3
"""What a run leaves in its directory: status.json, command.txt, env.json, origins, evaluations, samples, TensorBoard and
Prometheus files.

The event files are read by PyPI's tensorboard where it is installed; that part is left out with a message elsewhere.

usage: run_directory_test.py SWITCHYARD REPOSITORY
"""

import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import tiny

SWITCHYARD = os.path.abspath(sys.argv[1])


def run(*arguments, code=0, **options):
    result = subprocess.run([SWITCHYARD, *arguments], capture_output=True, text=True, **options)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def load(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write_input():
    tiny.write_text()
    with open("other.txt", "w") as out:
        out.writelines(f"quite another {i % 7} sort {i % 5}\n" for i in range(40))
    config = tiny.config()
    config["data"]["ood"] = [{"name": "other", "files": "other.txt"}]
    config["eval"] = {"every": 8, "samples": 2}
    config["checkpoint"] = {"every": 8, "keep_last": 5}
    config["log"] = {"every": 4, "tensorboard": True, "prometheus": True}
    with open("tiny.json", "w") as out:
        json.dump(config, out, indent=1)


def check_whole_run():
    run("train", "tiny.json", "--run-dir", "run", "--set", "optim.lr=2e-3", "--name", "it's mine")
    status = load("run/status.json")
    assert (status["status"], status["step"], status["last_step"], status["exit_code"]) == ("done", 20, 20, 0), status
    assert status["reason"] is None and status["eta_seconds"] is None and status["loss"] > 0, status
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["heartbeat"]), status
    command = open("run/command.txt").read().splitlines()
    assert re.fullmatch(r"\S+Z  switchyard \d+\.\d+\.\d+ \(.+\)", command[0]), command
    assert command[1] == "  cd " + os.getcwd() and command[2].endswith("--name 'it'\\''s mine'"), command
    env = load("run/env.json")
    assert env["processors"] == len(os.sched_getaffinity(0)) and env["ranks"] == 1 and env["kernels"], env
    resolved = load("run/config.resolved.json")
    assert resolved["optim.lr"] == {"value": 2e-3, "origin": "--set optim.lr=2e-3"}, resolved["optim.lr"]
    assert resolved["optim.eps"] == {"value": 1e-8, "origin": "default"}, resolved["optim.eps"]
    place = resolved["data.sources[0].files"]
    number = int(place["origin"].split(":")[1])
    assert place["value"] == ["tiny.txt"] and '"files": "tiny.txt"' in open("tiny.json").read().splitlines()[number - 1]
    shown = run("config", "show", "tiny.json", "--set", "optim.lr=2e-3", "--origins").stdout
    assert json.loads(shown)["optim.lr"]["origin"] == "--set optim.lr=2e-3", shown

    metrics = lines("run/metrics.jsonl")
    assert len(metrics) == 20
    for m in metrics:
        total = sum(m["phases"].values())
        assert list(m["phases"]) == ["data", "forward", "backward", "comm", "optimizer"], m
        assert all(s >= 0 for s in m["phases"].values()) and 0.7 * m["step_seconds"] < total <= m["step_seconds"], m
    evaluations = lines("run/eval.jsonl")
    assert [e["step"] for e in evaluations] == [8, 16, 20], evaluations
    for e in evaluations:
        assert [s["set"] for s in e["sets"]] == ["held_out", "text", "ood:other"], e
        assert all(s["five_gram_bpb"] > 0 and s["three_gram_bpb"] > 0 for s in e["sets"]), e
        assert load(f"run/eval/step-{e['step']:08}.json") == e
        best = min((x["sets"][0]["bpb"], x["step"]) for x in evaluations if x["step"] <= e["step"])
        assert (e["best_bpb"], e["best_step"]) == best, (e, best)
        text = open(f"run/samples/step-{e['step']:08}.txt", errors="replace").read()
        assert text.count("== text | ") == 2, text
    final = json.loads(run("eval", "run", "--json").stdout)
    for s, t in zip(final["sets"], evaluations[-1]["sets"]):
        assert all(abs(s[k] - t[k]) < 1e-12 for k in ("bpb", "loss", "three_gram_bpb", "five_gram_bpb")), (s, t)
    assert final["best_step"] == evaluations[-1]["best_step"], final
    return metrics, evaluations


def read_prometheus(path):
    """{(metric, labels): value}, held against the rules of the text format: https://prometheus.io/docs/instrumenting."""
    text = open(path, newline="").read()
    assert text.endswith("\n") and "\r" not in text
    values, families, family = {}, {}, None
    for line in text.splitlines():
        if line.startswith("#"):
            kind, name, rest = re.fullmatch(r"# (HELP|TYPE) ([a-zA-Z_:][a-zA-Z0-9_:]*) (.+)", line).groups()
            if kind == "HELP":  # begins a family, of which there is one
                assert name not in families and not re.search(r"\\(?![\\n])", rest), line
                families[name], family = [], name
            assert name == family, line
            families[name].append(kind)
            assert kind == "HELP" or rest in ("gauge", "counter"), line
            continue
        name, labels, value = re.fullmatch(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\{(.*)\} (\S+)", line).groups()
        assert name == family and families[name] == ["HELP", "TYPE"], line  # a family stands together
        label = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
        assert re.fullmatch(f"{label}(,{label})*", labels), line
        unescaped = {k: re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), v)
                     for k, v in re.findall(r'([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"', labels)}  # fmt: skip
        key = name, tuple(sorted(unescaped.items()))
        assert key not in values, line
        values[key] = float(value)
    return values


def check_prometheus(metrics, evaluations):
    run_name = ("run", "it's mine")
    values = read_prometheus("run/metrics.prom")
    assert all(run_name in labels for _, labels in values), values

    def value(name, *labels):
        return values["switchyard_" + name, tuple(sorted([run_name, *labels]))]

    assert value("step") == 20 and value("loss") == metrics[-1]["loss"], values
    assert value("aux_loss") == metrics[-1]["aux_loss"] and value("gradient_norm") == metrics[-1]["grad_norm"], values
    assert value("eval_bits_per_byte", ("set", "held_out")) == evaluations[1]["sets"][0]["bpb"], values
    assert value("phase_seconds", ("phase", "forward")) == metrics[-1]["phases"]["forward"], values
    assert abs(value("time_seconds") - time.time()) < 600
    assert not glob.glob("run/*.tmp"), "a part of a file was left"


def check_prometheus_load():
    """The load of the last window is that of experts.jsonl, and a name with all that needs escaping comes back."""
    name = 'a "b" \\ c\nd'
    run("train", "tiny.json", "--run-dir", "drops", "--name", name, "--set", "model.router.capacity_factor=0.75")
    values = {key: value for (key, labels), value in read_prometheus("drops/metrics.prom").items() if labels == (("run", name),)}
    window = [w for w in lines("drops/experts.jsonl") if "layers" in w][-1]
    assert window["step"] == values["switchyard_step"] == 20
    counts = [layer["tokens_per_expert"] for layer in window["layers"]]
    assert values["switchyard_expert_load_max_over_mean"] == max(max(c) * len(c) / sum(c) for c in counts), (values, counts)
    dropped = sum(layer["dropped"] for layer in window["layers"]) / sum(map(sum, counts))
    assert values["switchyard_dropped_share"] == dropped > 0, (values, dropped)
    assert values["switchyard_aux_loss"] == lines("drops/metrics.jsonl")[-1]["aux_loss"], values


def check_stop_and_failure():
    """A stop and a resume under other names in tb/, and a failure whose reason is in status.json."""
    process = subprocess.Popen([SWITCHYARD, "train", "tiny.json", "--run-dir", "stopped", "--set", "train.stop.steps=100000"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(400):
        if os.path.exists("stopped/metrics.jsonl"):
            break
        time.sleep(0.05)
    status = load("stopped/status.json")
    assert status["status"] == "running" and status["process"] == process.pid and status["last_step"] == 100000, status
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 75
    status = load("stopped/status.json")
    assert (status["status"], status["exit_code"], status["reason"]) == ("stopped", 75, None), status
    step = status["step"]
    time.sleep(1.1)  # names of event files have seconds
    run("train", "tiny.json", "--run-dir", "stopped", "--steps", str(step + 4), "--set", "seed=8", code=6)
    assert load("stopped/status.json")["status"] == "stopped", "a run that never began changes nothing"
    run("train", "tiny.json", "--run-dir", "broken", "--set", "optim.lr=1e30", "--set", "optim.warmup=0", "--set",
        "optim.grad_clip=0", code=5)
    status = load("broken/status.json")
    assert (status["status"], status["exit_code"]) == ("failed", 5) and "finite" in status["reason"], status


def check_tensorboard(metrics, evaluations):
    files = glob.glob("run/tb/*tfevents*")
    assert len(files) == 1, files
    time.sleep(1.1)
    # the same run again from step 8: what the first file says of later steps is void
    for step in (16, 20):
        subprocess.run(["rm", "-r", f"run/checkpoints/step-{step:08}"], check=True)
    run("train", "tiny.json", "--run-dir", "run", "--set", "optim.lr=2e-3", "--name", "it's mine", "--resume", "must")
    assert len(glob.glob("run/tb/*tfevents*")) == 2 and len(open("run/command.txt").read().splitlines()) == 6
    assert [e["step"] for e in lines("run/eval.jsonl")] == [8, 16, 20]
    try:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    except ImportError:
        print("skipped: PyPI's tensorboard is not installed, so nobody else has read the event files")
        return
    events = EventAccumulator("run/tb")
    events.Reload()
    losses = [(e.step, e.value) for e in events.Scalars("loss")]
    expected = [(m["step"], m["loss"]) for m in metrics if m["step"] % 4 == 0]
    assert [s for s, _ in losses] == [s for s, _ in expected], (losses, expected)
    assert all(abs(a - b) < 1e-6 * b for (_, a), (_, b) in zip(losses, expected)), (losses, expected)
    held_out = [(e.step, e.value) for e in events.Scalars("eval_bits_per_byte/held_out")]
    assert [s for s, _ in held_out] == [8, 16, 20], held_out
    assert abs(held_out[-1][1] - evaluations[-1]["sets"][0]["bpb"]) < 1e-6, held_out
    assert abs(events.Scalars("loss")[0].wall_time - time.time()) < 600
    print(f"PyPI's tensorboard reads {len(events.Tags()['scalars'])} series")


def main():
    write_input()
    metrics, evaluations = check_whole_run()
    check_prometheus(metrics, evaluations)
    check_prometheus_load()
    check_stop_and_failure()
    check_tensorboard(metrics, evaluations)
    print("a run's directory has what it should")


with tempfile.TemporaryDirectory() as place:
    os.chdir(place)
    main()
    os.chdir("/")
