"""One table of all kinds of bad input: what is changed in a folder of valid
files, the command, and its error message."""

import json
import os
import pickle
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from bad_checkpoints import (
    GGUF_FILES,
    HF_FOLDERS,
    META_FOLDERS,
    RunsCode,
    config,
    file,
    gguf_with,
    healthy_checkpoints,
    params,
    without,
)
from safetensors.torch import load_file, save_file
from vocabularies import tiktoken_lines

from llama_from_scratch.cli.main import main
from llama_from_scratch.tokenizer.formats.sentencepiece_file import BPE, BYTES, FLOAT, NONE, VARINT, field

SIZE = "--vocab-size 300 --dim 16 --layers 1 --heads 4 --kv-heads 2 --ffn-dim 24 --context 16 --batch-size 2"
TRAIN = f"train text.txt --out new --steps 2 {SIZE}"
SAVE = "saves/step-00000002"
RUN_STATE = f"{SAVE}/training/shard-00001-model-00001-of-00001.safetensors"  # what only training needs


def healthy(home: Path) -> None:
    """A text, a model in each format, and a run that was trained for two steps; nothing in them is wrong."""
    lines = (f"the {i} quick brown foxes jump over {i * i} lazy dogs" for i in range(100))
    (home / "text.txt").write_text("\n".join(lines))
    healthy_checkpoints(home)
    run = f"train {home}/text.txt --out {home}/run --steps 2 --schedule wsd --save-every 1 --sample-tokens 1 {SIZE}"
    assert main(run.split()) == 0


class Case(NamedTuple):
    expected: str  # a regular expression
    command: str | list[str]
    spoil: Callable[[Path], object] = lambda home: None
    stdin: bytes = b""
    limit: int | None = None  # bytes that a file may have: a full disk
    may_change: str = "run/.lock"  # files that may differ afterwards

    @property
    def argv(self) -> list[str]:
        return shlex.split(self.command) if isinstance(self.command, str) else self.command


def within(folder: str, spoil: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda home: spoil(home / folder)


def each(*spoils: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda home: [spoil(home) for spoil in spoils]


def text(name: str, content: str) -> Callable[[Path], object]:
    return lambda home: (home / name).write_text(content, encoding="utf-8")


def folder(name: str) -> Callable[[Path], object]:
    """A folder where a file is expected."""

    def make(home):
        (home / name).unlink(missing_ok=True)
        (home / name).mkdir()

    return make


def locked(name: str) -> Callable[[Path], object]:
    """Nobody may read it. (Root may all the same, so the test gives that up.)"""
    return lambda home: (home / name).chmod(0)


def link(name: str, target: str) -> Callable[[Path], object]:
    def make(home):
        (home / name).unlink(missing_ok=True)
        (home / name).symlink_to(target)

    return make


def edit(name: str, change: Callable[[dict], object]) -> Callable[[Path], object]:
    """A JSON file after `change`, or what it returns."""

    def make(home):
        content = json.loads((home / name).read_text())
        (home / name).write_text(json.dumps(change(content) or content))

    return make


NESTED = "[" * 200_000
# --- weights in all formats ---------------------------------------------------------------------------------------

WEIGHTS = {
    "gguf": (GGUF_FILES, "", "model.gguf"),
    "hf": (HF_FOLDERS, "hf", "hf"),
    "meta": (META_FOLDERS, "meta", "meta"),
}
CASES = {
    f"{kind}: {name}": Case(expected, f"convert {given} new", within(place, spoil))
    for kind, (table, place, given) in WEIGHTS.items()
    for name, (spoil, expected) in table.items()
}
RUN_IT = "generate a --max-new-tokens 1 --model "

CASES |= {
    f"weights: {name}": case
    for name, case in {
        "NaN, when it is to run": Case(
            "hf/?.*: model.layers.0.mlp.up_proj.weight holds NaN or infinite numbers",
            RUN_IT + "hf",
            within("hf", lambda hf: _ruin(hf / "model.safetensors", "model.layers.0.mlp.up_proj.weight")),
        ),
        "too large for half precision": Case(
            "holds numbers that are too large for torch.float16; load it as torch.float32",
            RUN_IT + "hf --dtype float16",
            within("hf", lambda hf: _ruin(hf / "model.safetensors", "model.layers.0.mlp.up_proj.weight", 1e5)),
        ),
        "too large for the type to write": Case(
            "up_proj.weight holds numbers that are too large for F16; write it as BF16 or F32",
            "convert hf new --type F16",
            within("hf", lambda hf: _ruin(hf / "model.safetensors", "model.layers.0.mlp.up_proj.weight", 1e5)),
        ),
        "a folder called .gguf": Case("x.gguf has no tokenizer.json and no", RUN_IT + "x.gguf", folder("x.gguf")),
        "a folder called .safetensors": Case(
            "missing|is a folder", "convert x.safetensors new", folder("x.safetensors")
        ),
        "config.json is a folder": Case("config.json", "convert hf new", folder("hf/config.json")),
        "model.safetensors is a folder": Case("has neither", "convert hf new", folder("hf/model.safetensors")),
        "consolidated.00.pth is a folder": Case(
            "consolidated.00.pth cannot be read .Is a directory.; make",
            "convert meta new",
            folder("meta/consolidated.00.pth"),
        ),
        "a GGUF file that may not be read": Case(
            "model.gguf.*[Pp]ermission", "convert model.gguf new", locked("model.gguf")
        ),
        "a config that may not be read": Case("config.json.*[Pp]ermission", "convert hf new", locked("hf/config.json")),
        "safetensors that may not be read": Case(
            "model.safetensors cannot be read .Permission", "convert hf new", locked("hf/model.safetensors")
        ),
        "a .pth that may not be read": Case(
            "consolidated.00.pth.*[Pp]ermission", "convert meta new", locked("meta/consolidated.00.pth")
        ),
        "a link to itself": Case("there is no file loop.gguf", RUN_IT + "loop.gguf", link("loop.gguf", "loop.gguf")),
        "a link to nothing": Case("there is no file a.gguf", RUN_IT + "a.gguf", link("a.gguf", "nothing")),
        "a shard that leads out by a link": Case(
            "is not a whole safetensors file|leads out",
            "convert hf new",
            within("hf", lambda hf: (_out(hf), link("model-00001-of-00001.safetensors", "../text.txt")(hf))),
        ),
        "a pipe for a model": Case(
            "there is no file pipe.gguf", RUN_IT + "pipe.gguf", lambda home: os.mkfifo("pipe.gguf")
        ),
        "two GGUF files in a folder": Case(
            "two holds 2 GGUF files; give the path of one",
            RUN_IT + "two",
            lambda home: ((home / "two").mkdir(), [(home / "two" / f"{i}.gguf").touch() for i in "ab"]),
        ),
        "config.json nested without end": Case(
            "hf/config.json is not JSON", "inspect hf", text("hf/config.json", '{"a":' + NESTED)
        ),
        "index nested without end": Case(
            "index.json is not JSON",
            "inspect hf",
            within("hf", each(without("model.safetensors"), text("model.safetensors.index.json", NESTED))),
        ),
        "a key twice in config.json": Case(
            "hf/config.json.*'vocab_size' twice",
            "inspect hf",
            lambda home: text("hf/config.json", '{"vocab_size": 7, ' + (home / "hf/config.json").read_text()[1:])(home),
        ),
        "a key twice in params.json": Case(
            "params.json.*'dim' twice",
            "inspect meta",
            lambda home: text("meta/params.json", '{"dim": 7, ' + (home / "meta/params.json").read_text()[1:])(home),
        ),
        "a key twice in a GGUF file": Case(
            "model.gguf is not a whole GGUF file", "inspect model.gguf", lambda home: _twice(home)
        ),
        "a key with too many digits": Case(
            "config.json", "inspect hf", text("hf/config.json", '{"vocab_size": 1' + "0" * 5000 + "}")
        ),
        "a head count that is true": Case(
            "num_attention_heads is (True|true); it must be a whole number",
            "inspect hf",
            within("hf", config(num_attention_heads=True)),
        ),
        "a vocabulary of 2^60": Case(
            "its config needs|impossible", "inspect hf", within("hf", config(vocab_size=2**60))
        ),
        "an endless context": Case(
            "max_position_embeddings is|its config needs|impossible|context",
            RUN_IT + "hf",
            within("hf", config(max_position_embeddings=-1)),
        ),
        "a type that is a list": Case(
            "model_type is \\['llama'\\]", "inspect hf", within("hf", config(model_type=["llama"]))
        ),
        "a scaling rule that is a list": Case(
            "RoPE scaling is \\['linear'\\]",
            "inspect hf",
            within("hf", config(rope_parameters={"rope_type": ["linear"], "factor": 2.0})),
        ),
        "a norm of 1e400": Case(
            "rms_norm_eps|norm_eps is inf",
            "inspect hf",
            lambda home: _replace(home / "hf/config.json", "1e-05", "1e400"),
        ),
        "a vocab_size that is a list": Case(
            "vocab_size is \\[32\\]", "inspect meta", within("meta", params(vocab_size=[32]))
        ),
        "a pickle by its name": Case(
            "w.bin is a pickle, .*use the safetensors or GGUF version",
            RUN_IT + "w.bin",
            lambda home: (home / "w.bin").write_bytes(pickle.dumps(RunsCode())),
        ),
        "pytorch_model.bin without a config": Case(
            "x/pytorch_model.bin is a pickle, .*use the safetensors or GGUF version",
            RUN_IT + "x/pytorch_model.bin",
            lambda home: ((home / "x").mkdir(), torch.save({}, home / "x/pytorch_model.bin")),
        ),
        "a pickle as a target": Case(
            "model.pt is the name of a single file of weights; give the name of a folder, such as model, or of a GGUF",
            "convert hf model.pt",
            lambda home: None,
        ),
        "safetensors as a target": Case(
            "new.safetensors is the name of a single file of weights; give the name of a folder, such as new, or",
            "convert hf new.safetensors",
            lambda home: None,
        ),
        "a pickle by another name": Case(
            "w.dat is neither a GGUF nor a .safetensors file",
            RUN_IT + "w.dat",
            lambda home: (home / "w.dat").write_bytes(pickle.dumps(RunsCode())),
        ),
        "a pickle in GGUF's name": Case(
            "w.gguf is not a whole GGUF file",
            RUN_IT + "w.gguf",
            lambda home: (home / "w.gguf").write_bytes(pickle.dumps(RunsCode()) * 9),
        ),
        "a .pth without params.json": Case(
            "consolidated.00.pth is a pickle",
            RUN_IT + "x/consolidated.00.pth",
            lambda home: ((home / "x").mkdir(), torch.save(RunsCode(), home / "x/consolidated.00.pth")),
        ),
        "no such name": Case("there is no model 'SmolLM3'; give \"SmolLM2-135M-Instruct\"", RUN_IT + "SmolLM3"),
        "no name": Case("there is no model ''", [*RUN_IT.split(), ""]),
        "no such path": Case("there is no model 'no/such/folder'; give", RUN_IT + "no/such/folder"),
        "no such GGUF file": Case("there is no file no.gguf; give", RUN_IT + "no.gguf"),
        "no such safetensors file": Case("there is no file hf/x.safetensors; give", RUN_IT + "hf/x.safetensors"),
        "a preset": Case("Llama-3.1-8B is a preset, sizes without weights", RUN_IT + "Llama-3.1-8B"),
    }.items()
}


CASES |= {
    f"weights: a pickle called {suffix}": Case(
        f"w{suffix} is a pickle, .*use the safetensors or GGUF version",
        f"inspect w{suffix}",
        lambda home, name=f"w{suffix}": (home / name).write_bytes(pickle.dumps(RunsCode())),
    )
    for suffix in (".pth", ".pt", ".pickle", ".pkl", ".ckpt", ".PTH")
}


def _ruin(path: Path, name: str, value: float = float("nan")) -> None:
    weights = load_file(path)
    weights[name].view(-1)[-1] = value
    save_file(weights, path)


def _out(hf: Path) -> None:
    (hf / "model.safetensors").unlink()
    names = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (hf / "model.safetensors.index.json").write_text(json.dumps(names))


def _twice(home: Path) -> None:
    path = gguf_with(home, extra={"llama.context_lengt2": 5})
    path.write_bytes(path.read_bytes().replace(b"llama.context_lengt2", b"llama.context_length"))


def _replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


# --- tokenizers ---------------------------------------------------------------------------------------------------

J, C = "hf/tokenizer.json", "hf/tokenizer_config.json"
ALL_BYTES = [bytes([byte]) for byte in range(256)]


def vocabulary(**changes: object) -> Callable[[Path], object]:
    return edit(J, lambda data: data["model"].update(changes))


def tokenizer_model(content: bytes) -> Callable[[Path], object]:
    """A tokenizer.model instead of the tokenizer.json."""

    def make(home):
        (home / J).unlink()
        (home / "hf/tokenizer.model").write_bytes(content)

    return make


def piece(text: bytes, kind: int = 1, score: bytes = bytes(4)) -> bytes:
    return field((1, BYTES), field((1, BYTES), text) + field((2, FLOAT), score) + field((3, VARINT), kind))


def sentencepiece(extra: bytes = b"", trainer: bytes = b"", normalizer: bytes = b"", kind: int = BPE) -> bytes:
    """A model of 261 pieces and what is to be wrong with it."""
    pieces = piece(b"<unk>", 2) + piece(b"<s>", 3) + piece(b"</s>", 3)
    pieces += b"".join(piece(b"<0x%02X>" % byte, 6) for byte in range(256)) + piece("▁".encode()) + piece(b"a")
    return (
        pieces
        + extra
        + field((2, BYTES), field((3, VARINT), kind) + trainer)
        + field((3, BYTES), field((4, VARINT), 0) + normalizer)
    )


CASES |= {
    f"tokenizer: {name}": case if isinstance(case, Case) else Case(case[1], RUN_IT + "hf", case[0])
    for name, case in {
        "none": (without(J), "hf has no tokenizer.json and no tokenizer.model; put the one"),
        "empty": (text(J, ""), "tokenizer.json is not (valid )?JSON"),
        "no JSON": (text(J, "{'a': 1}"), "tokenizer.json is not (valid )?JSON"),
        "no text": (file(J, b"\xff\xfe\x00"), "tokenizer.json is not (valid )?JSON"),
        "nested without end": (text(J, '{"model":' + NESTED), "tokenizer.json is not (valid )?JSON"),
        "a list": (text(J, "[1, 2]"), "tokenizer.json"),
        "nothing": (text(J, "null"), "tokenizer.json"),
        "a number": (text(J, "7"), "tokenizer.json"),
        "an empty object": (text(J, "{}"), "tokenizer.json"),
        "a folder": (folder(J), "tokenizer.json"),
        "not readable": (locked(J), "tokenizer.json.*[Pp]ermission"),
        "a key twice": (lambda home: text(J, '{"model": 1, ' + (home / J).read_text()[1:])(home), "'model' twice"),
        "a token twice": (
            lambda home: _replace(home / J, '"a": 0,', '"a": 0, "a": 5,'),
            "tokenizer.json.*'a' twice",
        ),
        "model is a list": (edit(J, lambda data: data.update(model=[])), "tokenizer.json"),
        "of another kind": (vocabulary(type="Unigram"), "its model is 'Unigram' instead of 'BPE'"),
        "of no kind": (vocabulary(type=None), "tokenizer.json"),
        "dropout": (vocabulary(dropout=0.1), "dropout = 0.1"),
        "vocabulary is a list": (vocabulary(vocab=["a"]), "tokenizer.json"),
        "ids are text": (vocabulary(vocab={"a": "0"}), "tokenizer.json"),
        "ids are fractions": (vocabulary(vocab={"a": 0.5}), "tokenizer.json"),
        "an id of 10^12": (vocabulary(vocab={"a": 10**12}), "is said to have the id 31, but its place is 1"),
        "negative ids": (vocabulary(vocab={"a": -1}), "is said to have the id 31, but its place is 1"),
        "an id of 1e400": (lambda home: _replace(home / J, '"a": 0', '"a": 1e400'), "tokenizer.json"),
        "not byte-level": (vocabulary(vocab={"日": 0}), "is said to have the id 31, but its place is 1"),
        "merges are numbers": (vocabulary(merges=[1, 2]), "tokenizer.json"),
        "merges of three": (vocabulary(merges=["a b c"]), "tokenizer.json"),
        "merges of lists": (vocabulary(merges=[[["a"], ["b"]]]), "tokenizer.json"),
        "merges of strangers": (vocabulary(merges=["zz qq"]), "its merge 0 joins 'zz' and 'qq'"),
        "changes texts": (edit(J, lambda data: data.update(normalizer={"type": "NFC"})), "normalizer"),
        "cuts in its own way": (edit(J, lambda data: data.update(pre_tokenizer={"type": "Punctuation"})), "cuts text"),
        "cuts by a rule without end": (
            edit(
                J,
                lambda data: data.update(
                    pre_tokenizer={
                        "type": "Split",
                        "pattern": {"Regex": "(a+)+$"},
                        "behavior": "Isolated",
                        "invert": False,
                    }
                ),
            ),
            "cuts text in a way that is not known here",
        ),
        "added tokens without options": (edit(J, lambda data: data.update(added_tokens=[{}])), "tokenizer.json"),
        "added token is a number": (
            edit(J, lambda data: data["added_tokens"][0].update(content=5)),
            "tokenizer.json",
        ),
        "settings no JSON": (text(C, "{"), "tokenizer_config.json is not (valid )?JSON"),
        "settings a list": (text(C, "[]"), "tokenizer_config.json"),
        "settings nested": (text(C, NESTED), "tokenizer_config.json is not (valid )?JSON"),
        "bos is a list": (text(C, '{"bos_token": ["<x>"]}'), "tokenizer"),
        "GGUF of another kind": Case(
            "its kind is 'bert', and only byte-level BPE",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.model": "bert"}),
        ),
        "GGUF without tokens": Case(
            "model.gguf has a tokenizer .*: it gives the types",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.tokens": None}),
        ),
        "GGUF with a text for tokens": Case(
            "model.gguf", RUN_IT + "model.gguf", lambda home: gguf_with(home, extra={"tokenizer.ggml.tokens": "abc"})
        ),
        "GGUF with a number for tokens": Case(
            "model.gguf", RUN_IT + "model.gguf", lambda home: gguf_with(home, extra={"tokenizer.ggml.tokens": 5})
        ),
        "GGUF with numbers as tokens": Case(
            "model.gguf",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.tokens": list(range(32))}),
        ),
        "GGUF cuts in its own way": Case(
            "cuts text by the rule 'qwen2'; the rules known are",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.pre": "qwen2"}),
        ),
        "GGUF with numbers as merges": Case(
            "model.gguf", RUN_IT + "model.gguf", lambda home: gguf_with(home, extra={"tokenizer.ggml.merges": [1, 2]})
        ),
        "GGUF with merges of strangers": Case(
            "it joins tokens in merge 0, 'zz qq'",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.merges": ["zz qq"]}),
        ),
        "GGUF bos far away": Case(
            "bos token is 99",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.bos_token_id": 99}),
        ),
        "GGUF bos is text": Case(
            "model.gguf",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.bos_token_id": "x"}),
        ),
        "GGUF scores missing": Case(
            "32 tokens have 0 scores",
            RUN_IT + "model.gguf",
            lambda home: gguf_with(home, extra={"tokenizer.ggml.model": "llama"}),
        ),
        "model empty": (tokenizer_model(b""), "tokenizer.model is empty; copy it again"),
        "model neither kind": (tokenizer_model(pickle.dumps(RunsCode())), "tokenizer.model cannot be read"),
        "model a folder": (each(without(J), folder("hf/tokenizer.model")), "tokenizer.model"),
        "tiktoken: no base64": (tokenizer_model(b"%% 0\n"), "line 1.* does not begin with base64"),
        "tiktoken: ranks out of order": (tokenizer_model(b"QQ== 1\n"), "line 1 .* the rank 0 belong there"),
        "tiktoken: token twice": (tokenizer_model(b"QQ== 0\nQQ== 1\n"), "line 2.* repeats the token 0"),
        "tiktoken: bytes missing": (tokenizer_model(b"QQ== 0\n"), "no token for 255 of the 256 bytes"),
        "tiktoken: cut off": (tokenizer_model(tiktoken_lines(ALL_BYTES)[:-3]), "line 256"),
        "tiktoken: a token without end": (
            tokenizer_model(tiktoken_lines([*ALL_BYTES, b"a" * 2000])),
            "token 256 is 2000 characters long",
        ),
        "SentencePiece: cut off": (tokenizer_model(sentencepiece()[:-3]), "in the middle of a"),
        "SentencePiece: a field of 2^62 bytes": (
            tokenizer_model(b"\n" + b"\xff" * 8 + b"\x7f"),
            "in the middle of a field",
        ),
        "SentencePiece: a number without end": (tokenizer_model(b"\n" + b"\xff" * 20), "longer than 10 bytes"),
        "SentencePiece: no text": (tokenizer_model(sentencepiece(piece(b"\xff"))), "piece 261 is not valid UTF-8"),
        "SentencePiece: piece twice": (tokenizer_model(sentencepiece(piece(b"a"))), "are both 'a'"),
        "SentencePiece: score NaN": (
            tokenizer_model(sentencepiece(piece(b"b", score=b"\x00\x00\xc0\x7f"))),
            "has the score nan",
        ),
        "SentencePiece: kind 9": (tokenizer_model(sentencepiece(piece(b"b", 9))), "piece 261 is of kind 9"),
        "SentencePiece: unigram": (tokenizer_model(sentencepiece(kind=1)), "its kind is unigram; only BPE"),
        "SentencePiece: changes texts": (
            tokenizer_model(sentencepiece(normalizer=field((2, BYTES), b"rules"))),
            "it changes text before cutting it",
        ),
        "SentencePiece: bos is ordinary": (
            tokenizer_model(sentencepiece(trainer=field((41, VARINT), 260))),
            "its bos or eos token is 260",
        ),
        "SentencePiece: bos of 2^63": (
            tokenizer_model(sentencepiece(trainer=field((41, VARINT), NONE - 1))),
            "its bos or eos token is",
        ),
        "of a larger model": Case(
            "the prompt holds the token id 259; this model knows 0 to 31, so use",
            RUN_IT + "hf",
            tokenizer_model(sentencepiece()),
        ),
    }.items()
}

# --- chat templates and messages ----------------------------------------------------------------------------------


def template(content: object) -> Callable[[Path], object]:
    def make(home):
        (home / "hf/chat_template.jinja").unlink(missing_ok=True)
        edit(C, lambda data: data.update(chat_template=content))(home)

    return make


CHAT = "chat hello --model hf --temperature 0 --max-new-tokens 1"
ESCAPES = {
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals of a function": "{{ cycler.__init__.__globals__.os.system('touch exploded') }}",
    "globals of raise_exception": "{{ raise_exception.__globals__['__builtins__'].eval('1') }}",
    "the frame of a generator": "{{ (messages | map('upper')).gi_frame.f_globals }}",
    "attributes by filter": "{{ (''|attr('__class__'))|attr('mro') }}{{ ''|attr('__class__')|attr('x')() }}",
    "a format string": "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}",
    "format_map": "{{ '{m.__class__.__mro__}'.format_map({'m': messages}) }}",
    "the environment": "{{ self._TemplateReference__context.environment.loader.load() }}",
    "namespace": "{{ namespace.__init__.__globals__.__builtins__.open('exploded', 'w') }}",
    "another file": "{% include '/etc/passwd' %}",
    "an import": "{% import 'os' as os %}{{ os.system('touch exploded') }}",
    "changing the messages": "{{ messages.append(1) }}",
    "the messages' class": "{{ messages.__class__.__base__.__subclasses__() }}",
    "a billion rounds": "{% for i in range(10**9) %}{% endfor %}",
    "calling itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "not closed": "{{ messages",
    "divided by zero": "{{ 1 / 0 }}",
    "unknown filter": "{{ messages | exec }}",
    "refuses": "{{ raise_exception('only one question, please') }}",
}
CASES |= {f"template: {name}": Case("chat template", CHAT, template(content)) for name, content in ESCAPES.items()}
CASES |= {
    f"chat: {name}": case
    for name, case in {
        "template is a number": Case("chat template|chat_template", CHAT, template(5)),
        "template is true": Case("chat template|chat_template", CHAT, template(True)),
        "templates without names": Case("chat.template|tokenizer", CHAT, template([{"template": "x"}])),
        "templates of numbers": Case("chat.template|tokenizer", CHAT, template([1, 2])),
        "template file is no text": Case("chat_template.jinja", CHAT, file("hf/chat_template.jinja", b"\xff\xfe")),
        "template file is a folder": Case("chat_template.jinja", CHAT, folder("hf/chat_template.jinja")),
        "template file beside tokenizer.model": Case(
            "chat_template.jinja",
            CHAT,
            each(tokenizer_model(sentencepiece()), file("hf/chat_template.jinja", b"\xff\xfe")),
        ),
        "template in a GGUF file is a number": Case(
            "chat template|chat_template",
            CHAT.replace("hf", "model.gguf"),
            lambda home: gguf_with(home, extra={"tokenizer.chat_template": 5}),
        ),
        "an escape in a GGUF file": Case(
            "chat template",
            CHAT.replace("hf", "model.gguf"),
            lambda home: gguf_with(home, extra={"tokenizer.chat_template": ESCAPES["subclasses"]}),
        ),
        "no format": Case("has no chat template, .* --chat-format", CHAT, without("hf/chat_template.jinja")),
        "a format of another vocabulary": Case("needs the special token '?<.im_end", CHAT + " --chat-format chatml"),
        "no such format": Case("invalid choice: 'alpaca'", CHAT + " --chat-format alpaca"),
        "no words": Case("the question is empty; ask something", ["chat", " ", "--model", "hf"]),
        "a character without token": Case("cannot spell 'Z'.*; take the character out", CHAT.replace("hello", "Z")),
        "half a character": Case(
            "what was typed is not text in UTF-8 .byte 1 is 0xFF.; convert", ["chat", "a\udcff", "--model", "hf"]
        ),
        "no room for an answer": Case("ask for at most", CHAT.replace(" 1", " 100000")),
        "no answer": Case("max_new_tokens is 0", CHAT.replace(" 1", " 0")),
        "rules that do nothing": Case("--top-p changes nothing at temperature 0", CHAT + " --top-p 0.5"),
        "what is typed is no text": Case("UTF-8", "chat --model hf --temperature 0", stdin=b"\xff\xfe\n"),
        "Llama 2's marks": Case(
            "a message holds '\\[INST\\]', a mark of the model's own format; take it out",
            ["chat", "[INST] a", *CHAT.split()[2:], "--chat-format", "llama2"],
            each(tokenizer_model(sentencepiece()), without("hf/chat_template.jinja")),
        ),
        "Llama 2's marks in the system message": Case(
            "a message holds '<</SYS>>', a mark",
            [*CHAT.split(), "--system", "<</SYS>>", "--chat-format", "llama2"],
            each(tokenizer_model(sentencepiece()), without("hf/chat_template.jinja")),
        ),
    }.items()
}

# --- generate and speculative decoding ----------------------------------------------------------------------------

GENERATE = "generate a --model hf --max-new-tokens 2"
DRAWN = GENERATE + " --temperature 1"


def bytes_in(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda home: (home / name).write_bytes(content)


CASES |= {
    f"generate: {name}": case
    for name, case in {
        "no prompt": Case("give the text to continue", "generate --model hf"),
        "two prompts": Case("give the text to continue", "generate a --file text.txt --model hf"),
        "empty prompt": Case("the prompt is empty", ["generate", "", "--model", "hf"]),
        "prompt without token": Case(
            "cannot spell 'Z'.*; take the character out, or add --errors replace or --errors ignore",
            "generate Z --model hf",
        ),
        "prompt no Unicode": Case(
            "what was typed is not text in UTF-8 .byte 1 is 0xFF.; convert", ["generate", "a\udcff", "--model", "hf"]
        ),
        "prompt too long": Case("the model's context is \\d+", ["generate", "a" * 5000, "--model", "hf"]),
        "prompt file missing": Case("no.txt: No such file", "generate --file no.txt --model hf"),
        "prompt file a folder": Case("hf: Is a directory", "generate --file hf --model hf"),
        "prompt file not readable": Case(
            "text.txt: Permission", "generate --file text.txt --model hf", locked("text.txt")
        ),
        "prompt file no text": Case(
            "b.txt is not text in UTF-8 .byte 1 is 0xFF.; convert",
            "generate --file b.txt --model hf",
            bytes_in("b.txt", b"a\xff"),
        ),
        "prompt file empty": Case("the prompt is empty", "generate --file b.txt --model hf", bytes_in("b.txt", b"")),
        "stdin no text": Case("not text in UTF-8", "generate --file - --model hf", stdin=b"\xff"),
        "no new tokens": Case("max_new_tokens is 0; it must be", "generate a --model hf --max-new-tokens 0"),
        "words for tokens": Case("'many'", "generate a --model hf --max-new-tokens many"),
        "fractions of tokens": Case("'1.5'", "generate a --model hf --max-new-tokens 1.5"),
        "too many tokens": Case("ask for at most", "generate a --model hf --max-new-tokens 99999999999999"),
        "temperature below 0": Case("temperature is -1.0; it must be 0", GENERATE + " --temperature -1"),
        "temperature NaN": Case("temperature is nan; it must be", GENERATE + " --temperature nan"),
        "temperature infinite": Case("temperature is inf; it must be", GENERATE + " --temperature inf"),
        "temperature nearly 0": Case("temperature is 1e-40; it must be", GENERATE + " --temperature 1e-40"),
        "temperature a word": Case("'hot'", GENERATE + " --temperature hot"),
        "top-k at temperature 0": Case("--top-k changes nothing at temperature 0", GENERATE + " --top-k 5"),
        "seed at temperature 0": Case("--seed changes nothing at temperature 0", GENERATE + " --seed 5"),
        "top-k 0": Case("top_k is 0; it must be", DRAWN + " --top-k 0"),
        "top-k beyond": Case("top_k is 33; this model has only 32 tokens, so give at most that", DRAWN + " --top-k 33"),
        "top-p 0": Case("top_p is 0.0; it must be", DRAWN + " --top-p 0"),
        "top-p 2": Case("top_p is 2.0; it must be", DRAWN + " --top-p 2"),
        "top-p NaN": Case("top_p is nan; it must be", DRAWN + " --top-p nan"),
        "min-p below 0": Case("min_p is -1.0; it must be", DRAWN + " --min-p -1"),
        "min-p NaN": Case("min_p is nan; it must be", DRAWN + " --min-p nan"),
        "seed below 0": Case("seed is -1; it must be", DRAWN + " --seed -1"),
        "seed of 2^63": Case("seed is 9223372036854775808; it must be", DRAWN + " --seed 9223372036854775808"),
        "penalty 0": Case("repetition_penalty is 0.0; it must be", GENERATE + " --repetition-penalty 0"),
        "penalty NaN": Case("repetition_penalty is nan; it must be", GENERATE + " --repetition-penalty nan"),
        "no samples": Case("the number of samples is 0; it must be", GENERATE + " --samples 0"),
        "samples that are the same": Case("all samples are the same text; add", GENERATE + " --samples 2"),
        "samples beyond memory": Case(
            "the number of samples is 100000000000; it must be", DRAWN + " --samples 100000000000"
        ),
        "guesses of nothing": Case("--guesses is for speculative decoding; add", GENERATE + " --guesses 2"),
        "no guesses": Case("n_guesses is 0; it must be", GENERATE + " --prompt-lookup --guesses 0"),
        "guesses a word": Case("'x'", GENERATE + " --prompt-lookup --guesses x"),
        "two drafts": Case("not allowed with", GENERATE + " --prompt-lookup --draft hf"),
        "samples from a draft": Case("leave one of them out", DRAWN + " --samples 2 --prompt-lookup"),
        "draft missing": Case("there is no model 'nope'; give", GENERATE + " --draft nope"),
        "draft with another vocabulary": Case(
            "--draft run and --model hf have different vocabularies", GENERATE + " --draft run"
        ),
        "draft broken": Case(
            "model.gguf is not a whole GGUF file", GENERATE + " --draft model.gguf", bytes_in("model.gguf", b"GGUF")
        ),
        "draft for dynamic scaling": Case(
            "RoPE scaling is dynamic, .*; generate without a draft",
            GENERATE + " --prompt-lookup",
            within("hf", config(rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0})),
        ),
        "device": Case("--device is 'toaster'; it must be cpu", GENERATE + " --device toaster"),
        "device missing": Case("--device is cuda:99, and PyTorch sees", GENERATE + " --device cuda:99"),
        "device of 400 digits": Case("--device is cuda:9", GENERATE + " --device cuda:" + "9" * 20),
        "type": Case("'int8'", GENERATE + " --dtype int8"),
        "threads": Case("--threads is 0; it must be from 1 to", GENERATE + " --threads 0"),
        "threads without end": Case("--threads is 100000; it must be", GENERATE + " --threads 100000"),
        "option unknown": Case("--frobnicate", GENERATE + " --frobnicate"),
        "command unknown": Case("'frobnicate'", "frobnicate"),
        "no command": Case("command", ""),
    }.items()
}

# --- evaluate, inspect, bench -------------------------------------------------------------------------------------

EVALUATE = "evaluate a.txt --model hf"
LETTERS = bytes_in("a.txt", b"the cat sat on the mat " * 9)
CASES |= {
    f"evaluate: {name}": case
    for name, case in {
        "no file": Case("file", "evaluate --model hf"),
        "file missing": Case("no.txt: No such file", "evaluate no.txt --model hf"),
        "file a folder": Case("hf: Is a directory", "evaluate hf --model hf"),
        "file empty": Case("a.txt is empty; give a text", EVALUATE, bytes_in("a.txt", b"")),
        "file too short": Case("the text has 1 tokens; at least 2", EVALUATE, bytes_in("a.txt", b"a")),
        "file no text": Case("a.txt is not text in UTF-8", EVALUATE, bytes_in("a.txt", b"\x80")),
        "character without token": Case("cannot spell 'Z'.*, or add --errors", EVALUATE, bytes_in("a.txt", b"aaaZ")),
        "errors of no kind": Case("'drop'", EVALUATE + " --errors drop", LETTERS),
        "window 0": Case("the window is 0; it must be from 1 to", EVALUATE + " --window 0", LETTERS),
        "window too long": Case("the window is 999999; it must be from 1 to", EVALUATE + " --window 999999", LETTERS),
        "stride 0": Case("the stride is 0; it must be from 1", EVALUATE + " --stride 0", LETTERS),
        "stride longer": Case("the stride is 9; it must be from 1", EVALUATE + " --window 8 --stride 9", LETTERS),
        "max-tokens 1": Case("--max-tokens is 1; it must be at least 2", EVALUATE + " --max-tokens 1", LETTERS),
        "max-tokens a word": Case("'all'", EVALUATE + " --max-tokens all", LETTERS),
    }.items()
}
CASES |= {
    f"inspect: {name}": case
    for name, case in {
        "nothing there": Case("there is no model 'nope'; give", "inspect nope"),
        "a text": Case("text.txt is neither a GGUF nor a .safetensors file; give", "inspect text.txt"),
        "an empty folder": Case("empty/config.json is missing; give a folder", "inspect empty", folder("empty")),
    }.items()
}
CASES |= {
    f"bench: {name}": case
    for name, case in {
        "nothing to measure": Case("what", "bench"),
        "no batch": Case("--batch is 0; it must be at least 1", "bench decode --model hf --batch 0"),
        "every switch and one": Case("--each runs every switch; leave out", "bench decode --model hf --each --fuse"),
        "quality of no text": Case("quality is judged on a text; name one with --file", "bench quality --model hf"),
        "no folder for the result": Case(
            "--json is no/x.json, in a folder that does not exist; make it",
            "bench decode --model hf --json no/x.json",
        ),
        "text too short": Case(
            "a.txt has .* tokens and 64 are needed; lower --prompt",
            "bench decode --model hf --file a.txt",
            bytes_in("a.txt", b"a"),
        ),
    }.items()
}

# --- convert ------------------------------------------------------------------------------------------------------

STATIC = bytes_in("there.gguf", b"precious")
CASES |= {
    f"convert: {name}": case
    for name, case in {
        "nothing given": Case("source", "convert"),
        "no target": Case("target", "convert hf"),
        "no target's name": Case("is the current folder or holds it.*; save to", ["convert", "hf", ""]),
        "source missing": Case("there is no model 'nope'; give", "convert nope new"),
        "format unknown": Case("'onnx'", "convert hf new --to onnx"),
        "type unknown": Case("'Q4_0'", "convert hf new --type Q4_0"),
        "type that folders cannot hold": Case(
            "the type is 'Q8_0'; a folder must be written as", "convert hf new --type Q8_0"
        ),
        "GGUF by another name": Case(
            "new does not fit the format gguf; a GGUF file must be called", "convert hf new --to gguf"
        ),
        "folder called .gguf": Case("new.gguf does not fit the format meta", "convert hf new.gguf --to meta"),
        "file is there": Case("there.gguf already exists; add --overwrite", "convert hf there.gguf", STATIC),
        "model is there": Case("meta already holds a model .*; add --overwrite", "convert hf meta"),
        "itself": Case("model.gguf already exists; add --overwrite", "convert model.gguf model.gguf"),
        "a folder is a file": Case("text.txt is a file; give the name of a folder", "convert hf text.txt"),
        "a file is a folder": Case(
            "x.gguf is a folder; give the name of a file", "convert hf x.gguf --overwrite", folder("x.gguf")
        ),
        "below a file": Case("text.txt", "convert hf text.txt/new"),
        "GGUF below a file": Case("text.txt is not a folder; create it", "convert hf text.txt/new.gguf"),
        "GGUF in no folder": Case("no is not a folder; create it", "convert hf no/new.gguf"),
        "into itself": Case("is the current folder or holds it", "convert hf . --overwrite"),
        "a link to a file": Case(
            "there.gguf already exists|new.gguf already exists",
            "convert hf new.gguf",
            each(STATIC, link("new.gguf", "there.gguf")),
        ),
        "a link to a model": Case("new already holds a model", "convert hf new", link("new", "meta")),
        "a link to itself": Case("new is a link that leads to itself; remove", "convert hf new", link("new", "new")),
        "into a folder that may not be written": Case(
            "cannot be written .*[Pp]ermission.*; make room, or choose another",
            "convert hf shut/new",
            lambda home: ((home / "shut").mkdir(), (home / "shut").chmod(0o500)),
        ),
        "GGUF into such a folder": Case(
            "cannot be written .*[Pp]ermission.*; make room, or choose another",
            "convert hf shut/new.gguf",
            lambda home: ((home / "shut").mkdir(), (home / "shut").chmod(0o500)),
        ),
        "what the format cannot say": Case(
            "a Meta checkpoint cannot say .*RoPE scaling.*; write the Hugging Face format",
            "convert hf new --to meta",
            within("hf", config(rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0})),
        ),
        "what GGUF cannot say": Case(
            "dynamic",
            "convert hf new.gguf",
            within("hf", config(rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0})),
        ),
    }.items()
}
CASES |= {
    f"convert: {'to ' + to} on a full disk{', over another model' if over else ''}": Case(
        "cannot be written .*; make room, or choose another",
        f"convert model.gguf {target} --to {to}" + " --overwrite" * over,
        limit=limit,
    )
    for to, new, old in (("huggingface", "new", "hf"), ("meta", "new", "meta"), ("gguf", "new.gguf", "model.gguf"))
    for target, over in ((new, False), (old, True))
    for limit in (5000,)
}

# --- train --------------------------------------------------------------------------------------------------------

RESUME = "train --out run --resume --steps 4"
LATER = "run/log.jsonl|run/run.json|run/.lock"  # what a run that went on for a while may have written


def stored(change: Callable[[dict], object]) -> Callable[[Path], object]:
    return edit("run/run.json", lambda content: change(content["recipe"]) and None)


def numbers(**changes: object) -> Callable[[Path], object]:
    """training.json of the latest save."""
    return edit(f"run/{SAVE}/training.json", lambda content: content.update(changes))


def run_state(
    change: Callable[[dict], object], parts: Callable[[dict], object] | None = None
) -> Callable[[Path], object]:
    """The tensors that only training needs, of the latest save, and what the file says about its parts of them."""

    def make(home):
        path = home / "run" / RUN_STATE
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"DCP_SHARDING_INFO": json.dumps(parts(tensors))} if parts else None)

    return make


def recipe(name: str, value: object) -> Callable[[Path], object]:
    return stored(lambda recipe: recipe.update({name: value}))


CASES |= {
    f"train: {name}": case
    for name, case in {
        "no text": Case("there is no text to train on; give", f"train --out new {SIZE}"),
        "nowhere to": Case("--out", "train text.txt"),
        "text missing": Case("there is no text 'no.txt'; give", TRAIN.replace("text.txt", "no.txt")),
        "text empty": Case("a.txt holds no text; give", TRAIN.replace("text.txt", "a.txt"), bytes_in("a.txt", b" \n")),
        "text binary": Case(
            "a.txt is not text in UTF-8 .byte 0 is 0xFF.",
            TRAIN.replace("text.txt", "a.txt"),
            bytes_in("a.txt", b"\xff"),
        ),
        "text not readable": Case("text.txt.*[Pp]ermission", TRAIN, locked("text.txt")),
        "folder without text": Case("hf holds no file that ends in .txt; give", TRAIN.replace("text.txt", "hf")),
        "folder of folders": Case(
            "d holds no file that ends in .txt; give",
            TRAIN.replace("text.txt", "d"),
            lambda home: (home / "d/a.txt").mkdir(parents=True),
        ),
        "text too short": Case(
            "tokens, and a batch of 2 windows of 16 needs .*; give more text",
            TRAIN.replace("text.txt", "a.txt") + " --vocab-size 259",
            bytes_in("a.txt", b"ababcbcb"),
        ),
        "text too short to hold out some of it": Case(
            "held-out text|give more text",
            TRAIN.replace("text.txt", "a.txt") + " --vocab-size 259 --context 2 --batch-size 1",
            bytes_in("a.txt", b"ababcbcb"),
        ),
        "text without a pair": Case(
            "vocab_size is 300, and this text has pairs to join for at most 25.; give more text",
            TRAIN.replace("text.txt", "a.txt"),
            bytes_in("a.txt", b"abc"),
        ),
        "out is taken": Case("run already holds a run; resume it", TRAIN.replace("new", "run")),
        "out is something else": Case("hf already exists and is not a run; give the name", TRAIN.replace("new", "hf")),
        "out is a file": Case("text.txt already exists and is not a run", TRAIN.replace("new", "text.txt")),
        "out is below a file": Case("text.txt", TRAIN.replace("new", "text.txt/new")),
        "out may not be written": Case(
            "shut.*[Pp]ermission",
            TRAIN.replace("new", "shut/new"),
            lambda home: ((home / "shut").mkdir(), (home / "shut").chmod(0o500)),
        ),
        "full disk at once": Case("new cannot be written .*; make room", TRAIN, limit=1000),
        "tokenizer missing": Case("there is no model 'nope'; give", TRAIN + " --tokenizer nope"),
        "tokenizer that cannot spell": Case(
            "text.txt: this model.s vocabulary cannot spell .*, or add --errors", TRAIN + " --tokenizer hf"
        ),
        "context 1": Case("--context is 1; it must be a whole number of at least 2", TRAIN + " --context 1"),
        "steps 0": Case("--steps is 0; it must be", TRAIN + " --steps 0"),
        "steps a word": Case("'many'", TRAIN + " --steps many"),
        "learning rate NaN": Case("--learning-rate is nan; it must be", TRAIN + " --learning-rate nan"),
        "learning rate 0": Case("--learning-rate is 0.0; it must be", TRAIN + " --learning-rate 0"),
        "learning rate below 0": Case("--learning-rate is -1.0; it must be", TRAIN + " --learning-rate -1"),
        "end above the start": Case("--final-learning-rate is 2.0; it must be", TRAIN + " --final-learning-rate 2"),
        "clip infinite": Case("--clip is inf; it must be", TRAIN + " --clip inf"),
        "seed below 0": Case("--seed is -1; it must be", TRAIN + " --seed -1"),
        "seed of 2^70": Case("--seed is 1180591620717411303424; it must be", TRAIN + f" --seed {2**70}"),
        "schedule": Case("--schedule is 'linear'; it must be one of", TRAIN + " --schedule linear"),
        "precision": Case("--precision is 'int8'; it must be one of", TRAIN + " --precision int8"),
        "decay of a cosine": Case("--decay is 5; it must be 0 where", TRAIN + " --decay 5"),
        "warm-up longer": Case("--warmup 5 and --decay 0 take more than --steps 2", TRAIN + " --warmup 5"),
        "heads that do not divide": Case("--dim is 16; it must be a multiple of --heads 3", TRAIN + " --heads 3"),
        "odd heads": Case("head_dim is 1; it must be even", TRAIN + " --heads 16"),
        "key heads that do not divide": Case("n_heads must be a multiple", TRAIN + " --kv-heads 3"),
        "vocabulary too small": Case("vocab_size is 9; it must be at least", TRAIN + " --vocab-size 9"),
        "vocabulary too large": Case(
            "vocab|tokens", TRAIN.replace("text.txt", "a.txt") + " --vocab-size 9000", bytes_in("a.txt", b"ab " * 99)
        ),
        "save-every 0": Case("--save-every is 0; it must be", TRAIN + " --save-every 0"),
        "device": Case("--device is 'gpu'; it must be", TRAIN + " --device gpu"),
        "resume nothing": Case("there is no run in new; begin one there", "train --out new --resume"),
        "resume a model": Case("there is no run in hf; begin one there", "train --out hf --resume"),
        "resume with another width": Case("--dim is 32, and the run in run began with 16", RESUME + " --dim 32"),
        "resume with another text": Case(
            "the text is no.txt, and the run in run began with", "train no.txt --out run --resume"
        ),
        "resume backwards": Case("steps", "train --out run --resume --steps 1"),
        "run.json empty": Case("run.json is damaged .*; bring it back", RESUME, text("run/run.json", "")),
        "run.json nested": Case("run.json is damaged .*; bring it back", RESUME, text("run/run.json", NESTED)),
        "run.json a list": Case("run.json is damaged .*; bring it back", RESUME, text("run/run.json", "[]")),
        "run.json no text": Case("run.json is damaged .*; bring it back", RESUME, bytes_in("run/run.json", b"\xff")),
        "run.json without recipe": Case("run.json is damaged .*; bring it back", RESUME, text("run/run.json", "{}")),
        "run.json with two recipes": Case(
            "run.json is damaged .*'recipe' twice",
            RESUME,
            lambda home: text("run/run.json", '{"recipe": 1, ' + (home / "run/run.json").read_text().strip()[1:])(home),
        ),
        "run.json a folder": Case("there is no run in run|run.json", RESUME, folder("run/run.json")),
        "recipe with a stranger": Case("run.json is damaged .*'colour'", RESUME, recipe("colour", 1)),
        "recipe without steps": Case(
            "run.json is damaged .*'?steps'?.*; bring it back", RESUME, stored(lambda recipe: recipe.pop("steps"))
        ),
        "recipe with text for a number": Case("run.json is damaged .*--dim is '16'", RESUME, recipe("dim", "16")),
        "recipe with NaN": Case("run.json is damaged .*--clip is nan", RESUME, recipe("clip", float("nan"))),
        "recipe of 2^60": Case("damaged|not enough memory|impossible", RESUME, recipe("ffn_dim", 2**60)),
        "recipe of 10^9 blocks": Case("damaged|not enough memory|impossible", RESUME, recipe("layers", 10**9)),
        "recipe with a list for a word": Case("run.json is damaged", RESUME, recipe("schedule", ["wsd"])),
        "recipe with a number for texts": Case("run.json is damaged", RESUME, recipe("data", 5)),
        "recipe of another vocabulary": Case("vocab|damaged", RESUME, recipe("vocab_size", 270)),
        "step a word": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(step="x")),
        "step below 0": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(step=-1)),
        "step of another save": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(step=1)),
        "seconds a word": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(seconds="x")),
        "seconds NaN": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(seconds=float("nan"))),
        "length of the log a word": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(log_bytes="x")),
        "length of the log below 0": Case(f"{SAVE} is damaged .*; remove that folder", RESUME, numbers(log_bytes=-5)),
        "log too short": Case("log.jsonl has .* bytes and had 99999.*; bring back", RESUME, numbers(log_bytes=99999)),
        "training.json missing": Case(
            f"{SAVE} is damaged .training.json is missing.", RESUME, without(f"run/{SAVE}/training.json")
        ),
        "training.json nested": Case(f"{SAVE} is damaged", RESUME, text(f"run/{SAVE}/training.json", NESTED)),
        "training.json a list": Case(f"{SAVE} is damaged", RESUME, text(f"run/{SAVE}/training.json", "[]")),
        "training state a pickle": Case(
            f"{SAVE} is damaged", RESUME, bytes_in(f"run/{RUN_STATE}", pickle.dumps(RunsCode()))
        ),
        "training state of unknown parts": Case(
            "does not say which parts", RESUME, run_state(lambda m: None, lambda m: [])
        ),
        "training state of parts before the first": Case(
            f"{SAVE} is damaged",
            RESUME,
            run_state(lambda m: None, lambda m: {name: {"saved_offsets": [-1] * m[name].dim()} for name in m}),
        ),
        "training/ missing": Case(
            f"{SAVE} is damaged .its folder training/ is missing or empty.; remove that folder",
            RESUME,
            lambda home: shutil.rmtree(home / "run" / SAVE / "training"),
        ),
        "training/ empty": Case(
            f"{SAVE} is damaged .its folder training/ is missing or empty.; remove that folder",
            RESUME,
            without(f"run/{RUN_STATE}"),
        ),
        "optimizer of another shape": Case(
            f"{SAVE} is damaged", RESUME, run_state(lambda m: m.update({"embedding.weight.exp_avg": torch.zeros(3)}))
        ),
        "optimizer with a part missing": Case(
            f"{SAVE} is damaged", RESUME, run_state(lambda m: m.pop("embedding.weight.exp_avg"))
        ),
        "optimizer of strangers": Case(
            f"{SAVE} is damaged", RESUME, run_state(lambda m: m.update({"x.exp_avg": torch.zeros(3)}))
        ),
        "RNG state of another shape": Case(
            f"{SAVE} is damaged", RESUME, run_state(lambda m: m.update({"rng.cpu": torch.zeros(3, dtype=torch.uint8)}))
        ),
        "RNG state missing": Case(f"{SAVE} is damaged", RESUME, run_state(lambda m: m.pop("rng.cpu"))),
        "weights of a save cut off": Case(
            f"{SAVE} is damaged .*; remove that folder", RESUME, bytes_in(f"run/{SAVE}/model.safetensors", b"x")
        ),
        "tokens missing": Case("train.npy cannot be read .*; begin a new run", RESUME, without("run/data/train.npy")),
        "tokens changed": Case(
            "train.npy is not what was written there; begin",
            RESUME,
            lambda home: np.save(home / "run/data/train.npy", np.zeros(9)),
        ),
        "tokens a pickle": Case(
            "train.npy cannot be read",
            RESUME,
            lambda home: np.save(home / "run/data/train.npy", np.array([RunsCode()], dtype=object), allow_pickle=True),
        ),
        "tokens a zip archive": Case(
            "train.npy is not what was written there; begin",
            RESUME,
            lambda home: np.savez((home / "run/data/train.npy").open("wb"), np.zeros(9)),
        ),
        "data.json a list": Case("train.npy cannot be read", RESUME, text("run/data/data.json", "[]")),
        "data.json nested": Case("train.npy cannot be read", RESUME, text("run/data/data.json", NESTED)),
        "tokenizer of the run missing": Case("tokenizer", RESUME, without("run/tokenizer/tokenizer.json")),
        "log a folder": Case("log.jsonl", RESUME, folder("run/log.jsonl")),
        "full disk later": Case(
            "run.json cannot be written .*; make room, then resume", RESUME, limit=300, may_change=LATER
        ),
        "full disk at the save": Case(
            "step 3 cannot be saved in run/saves .*; the save of step 2 is complete; make room, then resume",
            RESUME + " --save-every 1",
            limit=6000,
            may_change=LATER,
        ),
        "prompt too long": Case(
            "the prompt of the samples has .* tokens, and the context is 16; shorten --prompt",
            RESUME + " --prompt " + "x" * 40,
            may_change=LATER,
        ),
    }.items()
}
CASES |= {
    "run: without a save": Case(
        "the run in run has not saved a model yet; wait",
        RUN_IT + "run",
        lambda home: [path.rename(home / path.name) for path in (home / "run/saves").iterdir()],
    ),
    "run: with an empty save": Case(
        "step-00000009", RUN_IT + "run", lambda home: (home / "run/saves/step-00000009").mkdir()
    ),
}
