#!/usr/bin/env python3
"""`bench ops|comm|generate` and `generate --prompts` as a user runs them.

usage: bench_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import subprocess
import sys
import tempfile

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
TINY = f"{ROOT}/configs/tiny.json"


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stdout, result.stderr)
    return result


def test_ops():
    result = json.loads(run("bench", "ops", TINY, "--ranks", 2, "--seconds", 0.2, "--json").stdout)
    names = [op["op"] for op in result["ops"]]
    for name in ["q_proj weight gradient", "causal_attention backward", "experts down_proj forward", "adamw, experts",
                 "exchange of tokens", "route", "cross_entropy"]:
        assert name in names, (name, names)
    assert len(names) == len(set(names)) and all(op["seconds"] > 0 and op["fraction"] > 0 for op in result["ops"]), result
    assert "of its limit" in run("bench", "ops", TINY, "--seconds", 0.2).stdout


def test_comm():
    rows = json.loads(run("bench", "comm", "--ranks", 3, "--seconds", 0.002, "--json").stdout)["collectives"]
    names = {row["collective"] for row in rows}
    assert names == {"barrier", "broadcast", "all_reduce_sum", "all_reduce_max", "all_gather", "reduce_scatter_sum",
                     "all_gather_v", "all_to_all", "all_to_all_v"}, names
    assert all(row["seconds"] > 0 and row["transport"] == "threads" for row in rows), rows
    assert "add --transport nccl" in run("bench", "comm", "--device", "cuda", code=2).stderr


def test_generate():
    result = json.loads(run("bench", "generate", TINY, "--batch", "1,3", "--prompt-tokens", 8, "--tokens", 6, "--json").stdout)
    one, three = result["batches"]
    assert (one["batch"], three["batch"]) == (1, 3) and abs(one["experts_per_step"] - 2) < 1e-9, result
    assert 2 < three["experts_per_step"] <= 4, result
    assert all(b["decode_tokens_per_second"] > 0 and b["ms_per_token_p95"] >= b["ms_per_token_median"] for b in (one, three))
    plan = json.loads(run("plan", TINY, "--json").stdout)["generation"][0]
    for key in ["experts_per_step", "weight_bytes_per_step", "cache_bytes_per_token"]:
        assert abs(plan[key] / one[key] - 1) < 1e-9, (key, plan, one)
    assert "positions" in run("bench", "generate", TINY, "--tokens", 60, code=2).stderr


def test_prompts():
    with open("tiny.txt", "w", encoding="utf-8") as file:
        file.writelines(f"line {i} of a text\n" for i in range(600))
    run("train", TINY, "--run-dir", "run", "--steps", 3, "--set", "data.sources[0].files=" + os.path.abspath("tiny.txt"),
        "--set", "optim.warmup=0")
    prompts = ["line 1", "of a longer text that fills the context of the model", "x"]
    with open("prompts.txt", "w", encoding="utf-8") as file:
        file.writelines(prompt + "\n" for prompt in prompts)
    with open("prompts.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": prompt}) + "\n" for prompt in prompts)
    options = ["--max-tokens", 40, "--seed", 5, "--json"]
    alone = [json.loads(run("generate", "run", "-p", prompt, *options, "--threads", 1).stdout) for prompt in prompts]
    for file in ["prompts.txt", "prompts.jsonl"]:
        for threads in [1, 3]:
            together = json.loads(run("generate", "run", "--prompts", file, *options, "--threads", threads).stdout)["prompts"]
            assert [t["prompt"] for t in together] == prompts, together
            assert [t["tokens"] for t in together] == [a["tokens"] for a in alone], (together, alone)
    open("empty.txt", "w").close()
    assert "has no prompts" in run("generate", "run", "--prompts", "empty.txt", code=2).stderr
    with open("hole.txt", "w", encoding="utf-8") as file:
        file.write("one\n\ntwo\n")
    assert "hole.txt:2: the prompt is empty" in run("generate", "run", "--prompts", "hole.txt", code=2).stderr
    assert "cannot be read" in run("generate", "run", "--prompts", "none.txt", code=2).stderr
    run("generate", "run", code=2)
    run("generate", "run", "-p", "a", "--prompts", "prompts.txt", code=2)


with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    test_ops()
    test_comm()
    test_generate()
    test_prompts()
print("bench_test: ok")
