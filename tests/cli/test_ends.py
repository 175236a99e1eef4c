"""`generate` and `chat` stop wherever the files of a model say that a text ends, where transformers does, too."""

import json

import pytest
import torch
from commands import in_process

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import save_model
from llama_from_scratch.convert import convert
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe

N, PROMPT = 24, "the cat"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}cat:"


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


@pytest.fixture
def folder(tmp_path):
    """A model with random weights whose tokenizer names no end, but has a chat template."""
    tok = train_bpe("the cat sat on the mat " * 9, 266, special=("<|a|>", "<|b|>"))
    tok = Tokenizer(tok.pieces, tok.merges, tok.special, tok.patterns, chat_template=TEMPLATE)
    torch.manual_seed(1)
    config = LlamaConfig(vocab_size=266, dim=32, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=8, ffn_dim=64)
    save_model(Llama(config), tmp_path / "model", tokenizer=tok)
    return tmp_path / "model"


def theirs(transformers, folder, ids: list[int]) -> list[int]:
    """What transformers writes after `ids` until one of the ends that the folder names."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    found = model.generate(torch.tensor([ids]), max_new_tokens=N, do_sample=False, pad_token_id=0)[0, len(ids) :]
    ends = model.generation_config.eos_token_id or []
    return [t for t in found.tolist() if t not in (ends if isinstance(ends, list) else [ends])]


def edit(file, **changes) -> None:
    file.write_text(json.dumps((json.loads(file.read_text()) if file.exists() else {}) | changes))


def an_end(written: list[int]) -> int:
    """A token in the middle of the text, where it stands for the first time."""
    return next(token for i, token in enumerate(written) if i > 3 and token not in written[:i])


def ours(command: str, model) -> str:
    options = ["--model", str(model), "--max-new-tokens", str(N), "--temperature", "0"]
    done = in_process([command, PROMPT, *options, *(["--tokens"] if command == "generate" else [])])
    assert done.code == 0, done.err
    return done.out


@pytest.mark.parametrize("place", ["generation_config.json", "config.json", "eos of a GGUF", "eot of a GGUF"])
def test_generate_and_chat_stop_at_any_end_that_the_files_name(transformers, folder, place):
    tok = load_tokenizer(folder)
    for command, ids in (
        ("generate", tok.encode(PROMPT)),
        ("chat", tok.chat([{"role": "user", "content": PROMPT}])),
    ):
        (folder / "generation_config.json").unlink(missing_ok=True)
        edit(folder / "config.json", eos_token_id=None)
        whole = theirs(transformers, folder, ids)
        assert len(whole) == N
        end = an_end(whole)
        others = [265, end] if place.startswith("eot") else [end, 265]
        edit(folder / ("config.json" if place == "config.json" else "generation_config.json"), eos_token_id=others)
        expected = theirs(transformers, folder, ids)
        assert 3 < len(expected) < N
        model = folder
        if place.endswith("GGUF"):
            model = folder.parent / f"{command}.gguf"
            convert(folder, model)
        out = ours(command, model)
        if command == "generate":
            assert out.endswith(f"new tokens: {' '.join(map(str, expected))}\n")
        else:
            assert out == tok.decode(expected) + "\n"
