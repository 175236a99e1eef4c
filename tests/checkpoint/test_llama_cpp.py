"""llama.cpp reads the files that we write, and we read the files that it writes.

llama-cpp-python is compiled when it is installed, which takes minutes, so it is no requirement. To run this:

    pip install llama-cpp-python && pytest tests/checkpoint/test_llama_cpp.py
"""

import ctypes
import importlib.metadata
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from nasty_text import FRAGMENTS
from reference import CASES, GQA, assert_same, random_pair, random_tokens

from llama_from_scratch import Llama
from llama_from_scratch.checkpoint import describe, load_model
from llama_from_scratch.checkpoint.gguf.write import GGUF_TYPES, save_gguf
from llama_from_scratch.checkpoint.stored import in_memory
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.generation import generate
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe

llama_cpp = pytest.importorskip("llama_cpp", reason="llama.cpp is not installed; run: pip install llama-cpp-python")

# A GGUF file cannot say the first three. Of the next, llama.cpp reads the file but not the two numbers (we warn).
CANNOT = {"dynamic", "dynamic-within", "llama3-bands", "yarn-betas"}
WIDE = replace(GQA, dim=256, n_heads=8, head_dim=32, ffn_dim=512)  # K-quants want rows of a multiple of 256 numbers
# Numbers of the enum llama_ftype in llama.h
FILE_TYPES = dict(F32=0, F16=1, Q4_0=2, Q4_1=3, Q8_0=7, Q5_0=8, Q5_1=9, Q4_K=14, Q5_K=16, Q6_K=18, BF16=32)
SAME = [case for case in CASES if case not in CANNOT]


def theirs(path: Path, **options) -> "llama_cpp.Llama":
    """In fp32 where the file allows it: keys and values, which llama.cpp keeps in F16 unless told otherwise."""
    options |= dict(n_ctx=512, n_gpu_layers=0, type_k=0, type_v=0, flash_attn=False, n_threads=1, n_threads_batch=1)
    return llama_cpp.Llama(str(path), verbose=False, **options)


def their_logits(path: Path, tokens: list[int]) -> torch.Tensor:
    model = theirs(path, logits_all=True)
    model.eval(tokens)
    logits = torch.from_numpy(np.array(model.scores[: len(tokens)]))
    model.close()
    return logits


def their_greedy(path: Path, prompt: list[int], steps: int) -> list[int]:
    model, tokens = theirs(path, logits_all=True), list(prompt)
    for _ in range(steps):
        model.eval(tokens[model.n_tokens :])
        tokens.append(int(np.argmax(model.scores[len(tokens) - 1])))
    model.close()
    return tokens[len(prompt) :]


def requantised(source: Path, target: Path, kind: str) -> Path:
    """The file as llama.cpp's own `quantize` writes it. To F32 it shows what llama.cpp reads from each block."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.pure, params.allow_requantize, params.nthread = FILE_TYPES[kind], True, True, 1
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) == 0
    return target


# Random models


@torch.no_grad()
@pytest.mark.parametrize("case", SAME)
def test_same_logits_and_greedy_tokens_in_fp32(tmp_path, case):
    ours, _ = random_pair(CASES[case])
    save_gguf(in_memory(ours), tmp_path / "model.gguf", "F32")
    tokens = random_tokens(ours.config, batch=1, seq=96)
    logits = ours(tokens)[0]
    assert_same("logits", logits, their_logits(tmp_path / "model.gguf", tokens[0].tolist()), 5e-4)

    prompt = tokens[0, :32].tolist()
    best, second = logits[31].topk(2).values
    assert best - second > 0.01
    assert their_greedy(tmp_path / "model.gguf", prompt, 32) == list(generate(ours, prompt, 32))


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_llama_cpp_reads_the_numbers_that_we_read(tmp_path, kind):
    """What we write, as llama.cpp decodes it to F32, bit for bit."""
    save_gguf(in_memory(random_pair(GQA)[0]), tmp_path / "model.gguf", kind)
    decoded = load_model(requantised(tmp_path / "model.gguf", tmp_path / "decoded.gguf", "F32"))
    for name, weight in load_model(tmp_path / "model.gguf").state_dict().items():
        assert torch.equal(weight, decoded.state_dict()[name]), name


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"])
def test_we_read_the_numbers_that_llama_cpp_writes(tmp_path, kind):
    """What llama.cpp quantised, as it decodes it itself to F32, bit for bit."""
    save_gguf(in_memory(random_pair(WIDE)[0]), tmp_path / "full.gguf", "F32")
    file = requantised(tmp_path / "full.gguf", tmp_path / "small.gguf", kind)
    assert {t.stored_type for t in describe(file).tensors if len(t.shape) == 2} == {kind}
    decoded = load_model(requantised(file, tmp_path / "decoded.gguf", "F32"))
    for name, weight in load_model(file).state_dict().items():
        assert torch.equal(weight, decoded.state_dict()[name]), name


# The embedded model, in every type that we write


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder, tok = tmp_path_factory.mktemp("embedded"), load_tokenizer(EMBEDDED)
    for kind in GGUF_TYPES:
        save_gguf(describe(EMBEDDED), folder / f"{kind}.gguf", kind, tokenizer=tok)
    return {kind: folder / f"{kind}.gguf" for kind in GGUF_TYPES}


@pytest.mark.parametrize("kind", GGUF_TYPES)
def test_the_embedded_model_writes_the_same_tokens(files, kind):
    """With F16, BF16 and Q8_0 weights llama.cpp rounds activations to these types, too, and we do not; but a trained
    model is sure enough of most words that 48 tokens are the same all the same."""
    model, tok = load_model(files[kind]), load_tokenizer(files[kind])
    prompt = tok.chat([{"role": "user", "content": "Why is the sky blue?"}])
    assert their_greedy(files[kind], prompt, 48) == list(generate(model, prompt, 48))


# Tokenizers


def same_ids(path: Path, tok: Tokenizer, texts: list[str]) -> None:
    """With BOS where the file asks for it. Special tokens in a text are text, as for us."""
    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    for text in texts:
        assert model.tokenize(text.encode(), add_bos=True, special=False) == tok.encode(text), text
    model.close()


WRITABLE = [text for text in FRAGMENTS if text != "\x04"]  # the embedded model has no token for this byte
NASTY = [*WRITABLE, "".join(WRITABLE), " ".join(WRITABLE)]


def test_same_ids_with_the_tokenizer_of_the_embedded_model(files):
    same_ids(files["Q8_0"], load_tokenizer(EMBEDDED), NASTY)


def test_same_ids_with_a_tokenizer_of_our_own(tmp_path):
    """Trained on the nasty text itself, and with fewer tokens than the model has rows."""
    tok = train_bpe(" ".join(FRAGMENTS), 400)
    model = Llama(replace(GQA, vocab_size=448))
    save_gguf(in_memory(model), tmp_path / "model.gguf", "F16", tokenizer=tok)
    same_ids(tmp_path / "model.gguf", tok, NASTY)


def test_same_ids_with_sentencepiece(tmp_path):
    """The vocabulary of Mistral 7B, which is of Llama 2's kind; from its own file into ours."""
    (file,) = [file for file in importlib.metadata.files("mistral_common") if file.name == "tokenizer.model.v1"]
    (tmp_path / "tokenizer.model").write_bytes(file.read_binary())
    tok = load_tokenizer(tmp_path)
    model = Llama(replace(GQA, vocab_size=32064, dim=32))
    save_gguf(in_memory(model), tmp_path / "model.gguf", "F16", tokenizer=tok)
    same_ids(tmp_path / "model.gguf", tok, NASTY)
