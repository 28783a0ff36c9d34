"""What users get wrong: a table of calls and how to prepare for them.

A case is (name, exit code, preparation, arguments). The preparation is a dictionary of files to write, text or bytes,
or a function of the directory; CONFIG stands for a good config with one piece of text replaced.
"""

import json
import os

import tiny

GOOD = """{
  "version": 1,
  "name": "tiny",
  "model": {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
    "max_position_embeddings": 32
  },
  "data": {
    "sources": [{ "name": "text", "files": "text.txt" }],
    "held_out": { "fraction": 0.1, "split": "tail" }
  },
  "train": { "seq_len": 32, "batch_tokens": 512, "granules": 4, "stop": { "steps": 3 } },
  "optim": { "lr": 0.003, "warmup": 1 }
}
"""
TEXT = tiny.text(200)


def changed(old, new):
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def config(name, old, new, code=2):
    """A case of `config check` on the good config with a piece replaced."""
    return (f"config: {name}", code, {"c.json": changed(old, new)}, ["config", "check", "c.json"])


def file(name, content, code=2):
    return (f"config file: {name}", code, {"c.json": content}, ["config", "check", "c.json"])


def setting(name, *values, code=2):
    arguments = [part for value in values for part in ("--set", value)]
    return (f"--set: {name}", code, {"c.json": GOOD}, ["config", "check", "c.json", *arguments])


def data(name, files, *values, code=3, command=("train", "c.json", "--run-dir", "run")):
    arguments = [part for value in values for part in ("--set", value)]
    prepare = files if callable(files) else {"c.json": GOOD, "text.txt": TEXT, **files}
    return (f"data: {name}", code, prepare, [*command, *arguments])


def usage(name, *arguments, code=2, files=None):
    return (f"usage: {name}", code, {"c.json": GOOD, "text.txt": TEXT, **(files or {})}, list(arguments))


def on_run(name, *arguments, code=2, spoil=None):
    """A case on a finished run in `run`, copied from one that was trained once."""
    return (f"run: {name}", code, {"c.json": GOOD, "text.txt": TEXT, "RUN": spoil or (lambda path: None)}, list(arguments))


def write_all(directory, files):
    for name, content in files.items():
        path = os.path.join(directory, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as out:
            out.write(content if isinstance(content, bytes) else content.encode())


def closed_directory(directory):
    write_all(directory, {"c.json": changed('"text.txt"', '"texts"'), "texts/inner/a.txt": TEXT})
    os.chmod(os.path.join(directory, "texts/inner"), 0)


def closed_file(directory):
    write_all(directory, {"c.json": GOOD, "text.txt": TEXT})
    os.chmod(os.path.join(directory, "text.txt"), 0)


def closed_config(directory):
    closed_file(directory)
    os.chmod(os.path.join(directory, "c.json"), 0)


def two_closed(directory):
    write_all(directory, {"c.json": changed('"text.txt"', '"texts"'), "texts/a.txt": TEXT, "texts/b/c.txt": TEXT})
    os.chmod(os.path.join(directory, "texts"), 0)


def closed_parent(directory):
    write_all(directory, {"c.json": GOOD, "text.txt": TEXT})
    os.mkdir(os.path.join(directory, "closed"))
    os.chmod(os.path.join(directory, "closed"), 0o555)


def special_file(directory):
    write_all(directory, {"c.json": GOOD})
    os.mkfifo(os.path.join(directory, "text.txt"))


def broken_link(directory):
    write_all(directory, {"c.json": GOOD})
    os.symlink("nowhere", os.path.join(directory, "text.txt"))


def first(path, pattern):
    return next(os.path.join(path, name) for name in sorted(os.listdir(path)) if pattern in name)


def flip(path, pattern, at):
    """Changes one byte of a file of the newest checkpoint."""
    checkpoint = first(os.path.join(path, "checkpoints"), "step-00000003")
    name = first(checkpoint, pattern)
    with open(name, "r+b") as out:
        out.seek(at)
        byte = out.read(1)
        out.seek(at)
        out.write(bytes([byte[0] ^ 1]))


def remove(path, pattern):
    checkpoint = first(os.path.join(path, "checkpoints"), "step-00000003")
    os.remove(first(checkpoint, pattern))


SOURCES = '"sources": [{ "name": "text", "files": "text.txt" }]'
CASES = [
    # keys and types
    config("unknown key", '"name": "tiny"', '"colour": "red"'),
    config("unknown key with a near one", '"num_experts": 4', '"num_expert": 4'),
    config("unknown key of a source", '"files": "text.txt"', '"files": "text.txt", "wieght": 2'),
    config("a key of another object", '"seq_len": 32', '"hidden_size": 3'),
    config("upper case", '"hidden_size"', '"Hidden_Size"'),
    config("a string for an integer", '"hidden_size": 32', '"hidden_size": "32"'),
    config("a fraction for an integer", '"hidden_size": 32', '"hidden_size": 32.5'),
    config("an integer for a string", '"name": "tiny"', '"name": 7'),
    config("true for a number", '"lr": 0.003', '"lr": true'),
    config("null for an integer", '"hidden_size": 32', '"hidden_size": null'),
    config("a list for an object", '"optim": { "lr": 0.003, "warmup": 1 }', '"optim": []'),
    config("a string for an object", '"optim": { "lr": 0.003, "warmup": 1 }', '"optim": "adamw"'),
    config("an object for a list", SOURCES, '"sources": {}'),
    config("a number among sources", SOURCES, '"sources": [3]'),
    config("a number among files", '"files": "text.txt"', '"files": ["text.txt", 3]'),
    config("zero layers", '"num_hidden_layers": 2', '"num_hidden_layers": 0'),
    config("a negative learning rate", '"lr": 0.003', '"lr": -0.003'),
    config("records that are ignored", SOURCES, SOURCES + ', "on_bad_record": "ignore"'),
    config("an overlap above one", '"fraction": 0.1', '"fraction": 0.1, "max_overlap": 2'),
    config("runs of no word", '"fraction": 0.1', '"fraction": 0.1, "ngram": 0'),
    config("a fraction above its limit", '"fraction": 0.1', '"fraction": 0.9'),
    config("a value that is none of the choices", '"split": "tail"', '"split": "random"'),
    config("another version", '"version": 1', '"version": 2'),
    config("a unit that is none", '"batch_tokens": 512', '"batch_tokens": "512 kB"'),
    config("a part of a token", '"batch_tokens": 512', '"batch_tokens": "0.5"'),
    config("a time without a number", '"steps": 3', '"steps": 3, "time": "soon"'),
    config("a source without files", '"files": "text.txt"', '"weight": 1'),
    config("a source without a name", '"name": "text", ', ""),
    config("a source without weight", '"files": "text.txt"', '"files": "text.txt", "weight": 0'),
    config("no positions at all", '"max_position_embeddings": 32', '"max_position_embeddings": 0'),
    config("three at once", '"num_experts": 4', '"num_expert": 4, "hidden_sizes": 3, "rope_theta": "x"'),
    # inconsistent pairs
    config("key heads do not divide", '"num_key_value_heads": 2', '"num_key_value_heads": 3'),
    config("heads do not divide the width", '"hidden_size": 32', '"hidden_size": 30'),
    config("an odd width of a head", '"num_key_value_heads": 2', '"num_key_value_heads": 2, "head_dim": 7'),
    config("more choices than experts", '"num_experts_per_tok": 2', '"num_experts_per_tok": 5'),
    config("too many experts", '"num_experts": 4', '"num_experts": 2000'),
    config("groups do not divide", '"num_experts": 4', '"num_experts": 4, "n_group": 3'),
    config("more groups chosen than there are", '"num_experts": 4', '"num_experts": 4, "n_group": 2, "topk_group": 3'),
    config("groups too small for the choices", '"num_experts": 4', '"num_experts": 4, "n_group": 4, "topk_group": 1'),
    config("a gate without a shared expert", '"num_experts": 4', '"num_experts": 4, "shared_expert_gate": true'),
    config("sequences beyond the positions", '"max_position_embeddings": 32', '"max_position_embeddings": 16'),
    config("a batch of parts of sequences", '"batch_tokens": 512', '"batch_tokens": 500'),
    config("a batch smaller than a sequence", '"batch_tokens": 512', '"batch_tokens": 16'),
    config("granules do not divide", '"granules": 4', '"granules": 5'),
    config("a pass that cuts granules unevenly", '"granules": 4', '"granules": 4, "micro_batch": 3'),
    config("a balance loss by granule over part of one", '"granules": 4', '"granules": 4, "micro_batch": 2'),
    config("warm-up beyond the end", '"warmup": 1', '"warmup": 4'),
    config("min_lr above lr", '"lr": 0.003', '"lr": 0.003, "min_lr": 0.01'),
    config("three betas", '"lr": 0.003', '"lr": 0.003, "betas": [0.9, 0.95, 0.99]'),
    config("a beta of one", '"lr": 0.003', '"lr": 0.003, "betas": [0.9, 1.0]'),
    config("two sources of one name", SOURCES, SOURCES[:-1] + ', { "name": "text", "files": "b" }]'),
    config("a source and other text of one name", SOURCES, SOURCES + ', "ood": [{ "name": "text", "files": "b" }]'),
    config("a schedule without a length", '"steps": 3', '"time": "1 min"'),
    config("filters that leave nothing", SOURCES, SOURCES + ', "filters": { "min_compression": 9, "max_compression": 2 }'),
    config("a vocabulary smaller than bytes", '"hidden_size": 32', '"hidden_size": 32, "vocab_size": 100'),
    # the text of the file
    config("a key twice", '"version": 1', '"version": 1, "version": 1'),
    config("an inner key twice", '"seq_len": 32', '"seq_len": 32, "seq_len": 16'),
    config("a comma too many", '"steps": 3 }', '"steps": 3, }'),
    config("a comma too few", '"version": 1,', '"version": 1'),
    config("single quotes", '"name": "tiny"', "'name': 'tiny'"),
    config("a value that is no JSON", '"lr": 0.003', '"lr": NaN'),
    config("a number beyond all bounds", '"lr": 0.003', '"lr": 1e999'),
    config("an integer beyond 64 bits", '"hidden_size": 32', '"hidden_size": 99999999999999999999'),
    config("a comment without an end", '"version": 1', '/* "version": 1'),
    file("empty", ""),
    file("nothing but a comment", "// later\n"),
    file("a list", "[]"),
    file("text after the end", GOOD + "and so on\n"),
    file("not UTF-8", changed('"tiny"', '"t?ny"').encode().replace(b"?", b"\xe9")),
    file("half a surrogate", changed('"tiny"', '"\\ud800"')),
    file("a NUL", GOOD.encode().replace(b'"tiny"', b'"t\0ny"')),
    file("UTF-16", GOOD.encode("utf-16")),
    file("nested too deep", '{"model": ' + "[" * 100 + "]" * 100 + "}"),
    file("too large", '{"x-note": "' + "x" * 2000000 + '"}'),
    usage("a config that is not there", "config", "check", "nothing.json"),
    usage("a directory as a config", "config", "check", "."),
    ("config file: without permission", 2, closed_config, ["config", "check", "c.json"]),
    # --set
    setting("unknown key", "optim.momentum=0.9"),
    setting("no value", "optim.lr"),
    setting("no key", "=3"),
    setting("a string for a number", "optim.lr=fast"),
    setting("an element that is not there", "data.sources[3].weight=2"),
    setting("a key of a number", "seed.of=3"),
    setting("a list for a number", "optim.lr=[1, 2]"),
    setting("two mistakes", "optim.lr=fast", "model.colour=1"),
    # data
    data("a file that is not there", {"c.json": changed('"text.txt"', '"none.txt"')}),
    data("a glob that matches nothing", {"c.json": changed('"text.txt"', '"texts/**/*.txt"')}),
    data("an empty file", {"text.txt": ""}),
    data("not UTF-8", {"text.txt": b"caf\xe9 " * 100}),
    data("a binary file", {"text.txt": bytes(range(256)) * 10}),
    data("too little text for a sample", {"text.txt": "short"}),
    data("one document to be divided by groups", {}, "data.held_out.split=groups"),
    data("everything filtered out", {}, 'data.filters={"min_bytes": "1 MB"}'),
    data("training text that all stands in other text", {"c.json": changed(SOURCES, SOURCES + ', "ood": [{"name": "o", "files": "o.txt"}]'),
         "o.txt": "here, too, " + TEXT}, "data.held_out.max_overlap=0.5"),
    data("everything excluded", {}, "data.sources[0].exclude=*.txt"),
    data("a line that is no JSON", {"c.json": changed("text.txt", "a.jsonl"), "a.jsonl": '{"text": "one"}\nplain text\n'}),
    data("only lines that are no JSON, and skipped", {"c.json": changed("text.txt", "a.jsonl"), "a.jsonl": "one\ntwo\n"},
         "data.on_bad_record=skip"),
    data("a line without a text", {"c.json": changed("text.txt", "a.jsonl"), "a.jsonl": '{"content": "one"}\n'}),
    data("an empty .jsonl file", {"c.json": changed("text.txt", "a.jsonl"), "a.jsonl": ""}),
    data("no gzip", {"c.json": changed("text.txt", "a.gz"), "a.gz": TEXT}),
    data("a .zst file that was cut", {"c.json": changed("text.txt", "a.zst"), "a.zst": b"\x28\xb5\x2f\xfd\x04"}),
    data("a config without sources", {"c.json": changed(SOURCES, '"sources": []')}),
    data("other text that is not there", {"c.json": changed(SOURCES, SOURCES + ', "ood": [{"name": "o", "files": "o.txt"}]')}),
    data("a special file", special_file),
    data("a broken link", broken_link),
    ("data: a file without permission", 3, closed_file, ["train", "c.json", "--run-dir", "run"]),
    ("data: a directory without permission", 3, two_closed, ["train", "c.json", "--run-dir", "run"]),
    ("data: an inner directory without permission", 3, closed_directory, ["train", "c.json", "--run-dir", "run"]),
    data("an empty file, and directories that are new", {"text.txt": ""}, command=("train", "c.json", "--run-dir", "a/b/run/")),
    data("inspect of nothing", {"text.txt": ""}, command=("data", "inspect", "c.json")),
    data("which step of too little text", {"text.txt": "short"}, command=("data", "which", "c.json", "--step", "1")),
    data("standard input that is empty", {"c.json": changed('"text.txt"', '"-"')}),
    data("standard input that is no gzip", {"c.json": changed('"text.txt"', '"-.gz"')}),
    data("documents all unlike what is wanted", {}, "data.filters.containing=line"),
    # commands and options
    usage("no command"),
    usage("unknown command", "trian", "c.json"),
    usage("unknown option", "train", "c.json", "--colour"),
    usage("no config", "train"),
    usage("no such part of config", "config", "chek", "c.json"),
    usage("no part of data", "data"),
    usage("an option with a slip", "train", "c.json", "--step", "3"),
    usage("an option without its value", "train", "c.json", "--steps"),
    usage("a word too many", "config", "check", "c.json", "d.json"),
    usage("a seed that is no number", "generate", "run", "-p", "x", "--seed", "one"),
    usage("no ranks", "train", "c.json", "--ranks", "0"),
    usage("ranks that are no number", "train", "c.json", "--ranks", "two"),
    usage("more ranks than granules", "train", "c.json", "--ranks", "5"),
    usage("ep_size does not divide", "train", "c.json", "--ranks", "4", "--set", "parallel.ep_size=3"),
    usage("a colour that is none", "train", "c.json", "--color", "purple"),
    usage("quiet and verbose", "train", "c.json", "-q", "-v"),
    usage("a time that is none", "train", "c.json", "--time", "soon"),
    usage("tokens that are none", "train", "c.json", "--tokens", "many"),
    usage("negative steps", "train", "c.json", "--steps", "-1"),
    usage("another transport", "train", "c.json", "--transport", "pigeons"),
    usage("a run without end", "train", "c.json", "--set", "train.stop.steps=null", "--set", "optim.schedule=constant"),
    usage("a key that is not there", "config", "explain", "model.num_expert"),
    usage("step zero", "data", "which", "c.json", "--step", "0"),
    usage("no step", "data", "which", "c.json"),
    usage("a sample beyond the step", "data", "which", "c.json", "--step", "1", "--sample", "16"),
    usage("a set that is not there", "data", "overlap", "c.json", "train:prose"),
    usage("nothing to resume", "train", "c.json", "--run-dir", "run", "--resume", "must", code=6),
    usage("a checkpoint that is not there", "train", "c.json", "--run-dir", "run", "--resume", "run/step-7", code=6),
    usage("a file in place of the run directory", "train", "c.json", "--run-dir", "text.txt", code=4),
    usage("no run", "eval", "run", code=6),
    usage("a directory without checkpoints", "generate", ".", "-p", "x", code=6),
    ("usage: a run directory that cannot be made", 4, closed_parent, ["train", "c.json", "--run-dir", "closed/run"]),
    usage("another shell", "completion", "fish"),
    usage("no shell", "completion"),
    usage("a starter config for nothing", "config", "init", "none/*.txt", code=3),
    usage("a starter config over a file", "config", "init", "text.txt", "-o", "c.json"),
    usage("a starter config nowhere", "config", "init", "text.txt", "-o", "none/c.json", code=4),
    # on a run
    on_run("no prompt", "generate", "run"),
    on_run("a negative temperature", "generate", "run", "-p", "x", "--temperature", "-1"),
    on_run("no tokens wanted", "generate", "run", "-p", "x", "--max-tokens", "0"),
    on_run("an empty prompt", "generate", "run", "-p", ""),
    on_run("a text that is not there", "eval", "run", "--data", "none.txt", code=3),
    on_run("a text of one byte", "eval", "run", "--data", "one.txt", code=3, spoil=lambda path: write_all(path, {"../one.txt": "x"})),
    on_run("a directory of folders that is not there", "eval", "run", "--by-folder", "none", code=3),
    on_run("a directory without folders", "eval", "run", "--by-folder", "run/checkpoints/step-00000003", code=3),
    on_run("months of nothing", "eval", "run", "--by-date", "none/*.txt", code=3),
    on_run("a requirement that is none", "eval", "run", "--no-baselines", "--require", "held_out.bpb"),
    on_run("a requirement on a set that is not there", "eval", "run", "--no-baselines", "--require", "train.bpb<3"),
    on_run("a requirement that does not hold", "eval", "run", "--no-baselines", "--require", "held_out.tokens<3", code=7),
    on_run("a difference to nothing", "eval", "run", "--require", "held_out.delta<1"),
    on_run("one byte of the weights", "generate", "run", "-p", "x", code=6, spoil=lambda path: flip(path, "model-0", 3000)),
    on_run("one byte of the state", "eval", "run", code=6, spoil=lambda path: flip(path, "state.json", 9)),
    on_run("a shard is missing", "eval", "run", code=6, spoil=lambda path: remove(path, "model-0")),
    on_run("another model than before", "train", "c.json", "--run-dir", "run", "--set", "model.num_experts=8", code=6),
    on_run("a start from nothing over a run", "train", "c.json", "--run-dir", "run", "--resume", "never", code=6),
]
