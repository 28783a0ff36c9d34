#!/usr/bin/env python3
"""import, export, eval and generate on directories that transformers wrote (tests/golden/huggingface), train.init_from, and
a dense model made into a mixture. Needs no package: scripts/check_huggingface.py compares with transformers itself.

usage: huggingface_test.py SWITCHYARD REPOSITORY
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile

import tiny

SWITCHYARD, ROOT = os.path.abspath(sys.argv[1]), sys.argv[2]
GOLDEN = os.path.join(ROOT, "tests/golden/huggingface")
EXPECTED = json.load(open(os.path.join(GOLDEN, "expected.json")))
FAMILIES = ["mixtral", "olmoe", "qwen3_moe", "llama", "qwen3"]
TEXT = os.path.join(GOLDEN, "text")


def run(*arguments, code=0):
    result = subprocess.run([SWITCHYARD, *map(str, arguments)], capture_output=True, text=True)
    assert result.returncode == code, (arguments, result.returncode, result.stderr)
    return json.loads(result.stdout) if "--json" in arguments and code == 0 else result.stderr


def tensors(directory):
    """Of every safetensors file: name -> (dtype, shape, bytes)."""
    found = {}
    for file in sorted(os.listdir(directory)):
        if not file.startswith("model") or not file.endswith(".safetensors"):
            continue
        data = open(os.path.join(directory, file), "rb").read()
        (length,) = struct.unpack("<Q", data[:8])
        for name, entry in json.loads(data[8 : 8 + length]).items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                found[name] = (entry["dtype"], entry["shape"], data[8 + length + begin : 8 + length + end])
    return found


def held_out_loss(model, *options):
    return run("eval", model, *options, "--json", "--no-baselines")["sets"][0]["loss"]


def check_what_transformers_wrote():
    for family in FAMILIES:
        source, expected = os.path.join(GOLDEN, family), EXPECTED[family]
        loss = held_out_loss(source, "--data", TEXT)
        assert abs(loss / expected["loss"] - 1) < 1e-6, (family, loss, expected["loss"])
        made = run("generate", source, "-p", EXPECTED["prompt"], "--max-tokens", len(expected["tokens"]), "--temperature", 0, "--json")
        assert made["tokens"] == expected["tokens"], family
        run("export", source, "--to", "hf", f"{family}-copy", "--dtype", "bf16")
        assert tensors(f"{family}-copy") == tensors(source), family
        assert "Converted from" in open(f"{family}-copy/README.md").read()
        error = run("export", source, "--to", "hf", f"{family}-copy", code=2)
        assert "is not overwritten" in error, error


def check_training_from_it():
    for family in ("qwen3_moe", "llama"):
        source, config = os.path.join(GOLDEN, family), f"{family}.json"
        run("import", source, "-o", config, "--data", TEXT)
        assert "is not overwritten" in run("import", source, "-o", config, code=2)
        options = ["--steps", 1, "--set", "data.held_out.fraction=0", "--set", "train.seq_len=96", "--set", "train.batch_tokens=192",
                   "--set", "train.granules=2", "--set", "optim.schedule=constant", "--set", "optim.warmup=0", "--set", "optim.min_lr=0"]  # fmt: skip
        still = ["--set", "optim.lr=1e-30", "--set", "optim.weight_decay=0"]
        run("train", config, "--run-dir", f"{family}-still", *options, *still)
        assert held_out_loss(f"{family}-still", "--data", TEXT) == held_out_loss(source, "--data", TEXT), family
        alone = run("train", config, "--run-dir", f"{family}-alone", *options, "--json")
        two = run("train", config, "--run-dir", f"{family}-two", *options, "--ranks", 2, "--json")
        assert alone["digest"] == two["digest"], family
        run("export", f"{family}-alone", "--to", "hf", f"{family}-trained")
        changed, before = tensors(f"{family}-trained"), tensors(source)
        assert changed.keys() == before.keys() and changed != before, family
        card = open(f"{family}-trained/README.md").read()
        assert alone["digest"] in card and "## Data" in card, card


def check_a_run_as_origin():
    """A run with expert biases: they are part of what its model computes."""
    config = tiny.config()
    config["model"]["router"] = {"bias_update_rate": 0.05}
    json.dump(config, open("biased.json", "w"))
    run("train", "biased.json", "--run-dir", "biased")
    still = ["--set", "optim.lr=1e-30", "--set", "optim.min_lr=0", "--set", "optim.warmup=0", "--set", "optim.weight_decay=0",
             "--set", "optim.schedule=constant", "--steps", 1, "--set", "train.init_from=biased"]  # fmt: skip
    run("train", "biased.json", "--run-dir", "on", *still, "--set", "model.router.bias_update_rate=1e-30")
    assert held_out_loss("on") == held_out_loss("biased")
    error = run("train", "biased.json", "--run-dir", "off", *still, "--set", "model.router.bias_update_rate=0", code=6)
    assert "model.router.bias_update_rate" in error, error


def check_upcycling():
    config = tiny.config()
    config["model"] |= {"num_experts": 0, "intermediate_size": 48}
    del config["model"]["router"]
    json.dump(config, open("dense.json", "w"))
    run("train", "dense.json", "--run-dir", "dense")
    run("export", "dense", "--to", "hf", "dense-hf")
    loss = held_out_loss("dense")
    for origin in ("dense", "dense-hf"):
        mixture = json.loads(json.dumps(config))
        del mixture["model"]["intermediate_size"]
        mixture["model"] |= {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
        mixture["train"] |= {"init_from": origin, "stop": {"steps": 1}}
        mixture["optim"] = {"lr": 1e-30, "min_lr": 0, "warmup": 0, "weight_decay": 0, "schedule": "constant"}
        name = f"mixture-of-{origin}"
        json.dump(mixture, open(f"{name}.json", "w"))
        run("train", f"{name}.json", "--run-dir", name)
        assert abs(held_out_loss(name) / loss - 1) < 1e-6, (origin, held_out_loss(name), loss)
    noisy = ["--set", "train.upcycle.noise=0.5"]
    run("train", f"{name}.json", "--run-dir", "noisy", *noisy)
    assert abs(held_out_loss("noisy") / loss - 1) > 1e-4
    # one expert of weight 1/8 each, as if all weights were equal: the factor makes up for it
    scaled = ["--set", "train.upcycle.down_scale=4", "--set", "model.norm_topk_prob=false"]
    run("train", f"{name}.json", "--run-dir", "scaled", *scaled)
    run("train", f"{name}.json", "--run-dir", "unscaled", *scaled[2:])
    assert abs(held_out_loss("scaled") - loss) < abs(held_out_loss("unscaled") - loss)
    error = run("train", f"{name}.json", "--run-dir", "other", "--set", "model.rms_norm_eps=1e-5", "--set", "model.num_key_value_heads=4", code=6)
    assert "model.rms_norm_eps: 1e-06 there, 1e-05 here" in error and "num_key_value_heads" in error, error
    error = run("train", f"{name}.json", "--run-dir", "other", "--set", "model.n_shared_experts=1", code=6)
    assert "none is shared" in error, error
    error = run("train", f"{name}.json", "--run-dir", "other", "--set", "train.init_from=nowhere", code=6)
    assert "nowhere" in error, error


def check_refusals():
    def changed(family, edit):
        shutil.rmtree("changed", ignore_errors=True)
        shutil.copytree(os.path.join(GOLDEN, family), "changed")
        edit()
        errors = {run(*command, code=6) for command in (["eval", "changed", "--data", TEXT], ["generate", "changed", "-p", "a"],
                                                        ["import", "changed", "-o", "refused.json"], ["export", "changed", "out"])}  # fmt: skip
        assert len(errors) == 1, errors
        assert not os.path.exists("refused.json") and not os.path.exists("out") and not os.path.exists(".tmp-out")
        return errors.pop()

    def header(edit):
        """Rewrites the header of changed/model.safetensors; its length stays."""
        data = open("changed/model.safetensors", "rb").read()
        (length,) = struct.unpack("<Q", data[:8])
        text = edit(data[8 : 8 + length])
        assert len(text) == length and text != data[8 : 8 + length]
        open("changed/model.safetensors", "wb").write(data[:8] + text + data[8 + length :])

    one, other = b"layers.0.block_sparse_moe.experts.1.w1", b"layers.0.block_sparse_moe.experts.7.w1"
    error = changed("mixtral", lambda: header(lambda text: text.replace(one, other)))
    assert "experts.1.w1.weight is missing" in error and "experts.7.w1.weight is no weight of this model" in error, error
    error = changed("mixtral", lambda: header(lambda text: text.replace(one, one.replace(b"1.w1", b"2.w1"))))
    assert "duplicate" in error or "twice" in error, error
    error = changed("qwen3", lambda: header(lambda text: text.replace(b"[28,16]", b"[16,28]")))
    assert "is 16 x 28 but should be 28 x 16" in error, error
    error = changed("llama", lambda: os.truncate("changed/model.safetensors", 5000))
    assert "model.safetensors" in error, error

    def config(**values):
        def edit():
            path = "changed/config.json"
            json.dump(json.load(open(path)) | values, open(path, "w"))
        return edit

    error = changed("llama", config(rope_parameters={"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0}))
    assert 'a RoPE scaling of type "llama3"' in error, error
    assert "sliding_window" in changed("mixtral", config(sliding_window=64))
    assert 'hidden_act is "gelu"' in changed("qwen3", config(hidden_act="gelu"))
    # a checkpoint without its COMMIT is damaged, not a Hugging Face directory
    shutil.copytree("llama-alone/checkpoints/step-00000001", "damaged")
    os.remove("damaged/COMMIT")
    assert "no whole checkpoint" in run("eval", "damaged", "--data", TEXT, code=6)
    assert "name some with --data" in run("eval", os.path.join(GOLDEN, "llama"), code=3)
    # what no family can say
    config = tiny.config()
    config["model"]["n_shared_experts"] = 1
    json.dump(config, open("shared.json", "w"))
    run("train", "shared.json", "--run-dir", "shared", "--steps", 1, "--set", "optim.warmup=0")
    error = run("export", "shared", "--to", "hf", "out", code=2)
    assert "model.n_shared_experts above 0" in error and not os.path.exists("out"), error


def main():
    tiny.write_text()
    check_what_transformers_wrote()
    check_training_from_it()
    check_a_run_as_origin()
    check_upcycling()
    check_refusals()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        main()
