"""The GGUF files that we write: read by the package gguf, by transformers and by ourselves.

What llama.cpp makes of them is in test_llama_cpp.py.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers
from checkpoint_files import TYPES, hf_weights, write_gguf
from reference import CASES, GQA, assert_same, random_hf, random_pair, random_tokens, scaled

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import describe, load_model
from llama_from_scratch.checkpoint.gguf.read import GGUFFile
from llama_from_scratch.checkpoint.gguf.write import GGUF_TYPES, save_gguf
from llama_from_scratch.checkpoint.stored import in_memory
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe

UNSAYABLE = {"dynamic", "dynamic-within", "llama3-bands"}
SAYABLE = {case: config for case, config in CASES.items() if case not in UNSAYABLE}
SAYABLE |= {"attention-bias": replace(GQA, attention_bias=True), "ffn-bias": replace(GQA, ffn_bias=True)}
TINY = LlamaConfig(vocab_size=32, dim=32, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=16, ffn_dim=64)


def random_model(config: LlamaConfig) -> Llama:
    """Every weight and bias random, and none of them negligible."""
    model = Llama(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0.0, 0.2) if weight.dim() == 2 else weight.uniform_(0.25, 1.75)
    return model


def rounded(weight: torch.Tensor, kind: str) -> torch.Tensor:
    """What a matrix is after it was stored."""
    if kind == "Q8_0":
        numbers = gguf.quants.quantize(weight.numpy(), TYPES.Q8_0)
        return torch.from_numpy(gguf.quants.dequantize(numbers, TYPES.Q8_0))
    return weight.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]).float()


@pytest.mark.filterwarnings("ignore:the file says YaRN")
@pytest.mark.parametrize("kind", GGUF_TYPES)
@pytest.mark.parametrize("case", SAYABLE)
def test_round_trip_is_exact_in_the_written_precision(tmp_path, case, kind):
    """Same config, same numbers; and writing what was read gives the same file, bit for bit."""
    model, file = random_model(SAYABLE[case]), tmp_path / "model.gguf"
    save_gguf(in_memory(model), file, kind)
    back = load_model(file)
    assert back.config == model.config
    for name, weight in model.state_dict().items():
        expected = rounded(weight, kind) if weight.dim() == 2 else weight
        assert torch.equal(back.state_dict()[name], expected), name
    first = file.read_bytes()
    save_gguf(in_memory(back), file, kind, overwrite=True)
    assert file.read_bytes() == first


@pytest.mark.parametrize("kind", GGUF_TYPES)
@pytest.mark.parametrize("case", ["gqa", "mha", "mqa", "tied", "wide-heads", "eps-1e-6", "biases"])
def test_the_file_is_what_the_package_gguf_writes(tmp_path, case, kind):
    """Against files made without our names and permutations: the same metadata, the same bytes of every tensor."""
    ours, theirs = random_pair(replace(CASES[case], max_seq_len=64))
    theirs.config.max_position_embeddings = 64
    save_gguf(in_memory(ours), tmp_path / "ours.gguf", kind)
    write_gguf(tmp_path / "theirs.gguf", theirs.config, hf_weights(theirs), TYPES[kind])
    mine, yours = gguf.GGUFReader(tmp_path / "ours.gguf"), gguf.GGUFReader(tmp_path / "theirs.gguf")
    for key, field in yours.fields.items():
        if key.startswith("llama."):
            assert mine.fields[key].contents() == field.contents(), key
            assert mine.fields[key].types == field.types, key
    tensors = {tensor.name: tensor for tensor in mine.tensors}
    assert tensors.keys() == {tensor.name for tensor in yours.tensors}
    for tensor in yours.tensors:
        found = tensors[tensor.name]
        assert (found.tensor_type, found.shape.tolist()) == (tensor.tensor_type, tensor.shape.tolist())
        assert found.data.tobytes() == tensor.data.tobytes(), tensor.name


def test_general_metadata(tmp_path):
    save_gguf(in_memory(Llama(TINY)), tmp_path / "small-one.gguf", "Q8_0")
    value = GGUFFile(tmp_path / "small-one.gguf").value
    assert (value("general.architecture"), value("general.type"), value("general.name")) == (
        "llama",
        "model",
        "small-one",
    )
    assert value("general.file_type") == gguf.LlamaFileType.MOSTLY_Q8_0
    assert value("general.quantization_version") == gguf.GGML_QUANT_VERSION
    assert value("llama.vocab_size") == 32


@pytest.mark.parametrize("case", ["llama3-x8", "llama3-x32"])
def test_llama3_divisors(tmp_path, case):
    """rope_freqs.weight is the ratio of plain and scaled frequencies, as transformers computes them."""
    save_gguf(in_memory(Llama(CASES[case])), tmp_path / "model.gguf", "F16")
    found = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}["rope_freqs.weight"]
    plain = random_hf(replace(CASES[case], rope_scaling=None)).model.rotary_emb.inv_freq
    expected = plain / random_hf(CASES[case]).model.rotary_emb.inv_freq
    assert found.tensor_type == TYPES.F32
    np.testing.assert_allclose(found.data, expected.numpy(), rtol=1e-6)
    assert expected.min() == 1 and expected.max() == CASES[case].rope_scaling.factor


@torch.no_grad()
@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
@pytest.mark.parametrize("case", ["gqa", "mha", "tied", "wide-heads"])
def test_transformers_reads_the_file(tmp_path, case, kind):
    """Its reader of GGUF files forgets biases and RoPE scaling; for those, see test_llama_cpp.py."""
    ours = random_model(CASES[case])
    save_gguf(in_memory(ours), tmp_path / "model.gguf", kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, attn_implementation="eager"
    ).eval()
    tokens = random_tokens(GQA)
    assert_same("logits", load_model(tmp_path / "model.gguf")(tokens), theirs(tokens).logits)


# The tokenizer


TEXTS = [
    "Once upon a time",
    "don't\r\n\r\n  \t3.14159   2²",
    "naïve 日本語 👩\u200d👩\u200d👧 नमस्ते",
    "<|im_start|>user\nHi<|im_end|>",
    "",
]


def test_the_tokenizer_of_the_embedded_model_comes_back(tmp_path):
    tok = load_tokenizer(EMBEDDED)
    model = Llama(replace(TINY, vocab_size=49152, dim=32))
    save_gguf(in_memory(model), tmp_path / "model.gguf", "F16", tokenizer=tok)
    back = load_tokenizer(tmp_path / "model.gguf")
    assert describe(tmp_path / "model.gguf").tokenizer == "byte-level BPE"
    assert (back.pieces, back.special, back.chat_template) == (tok.pieces, tok.special, tok.chat_template)
    assert (back.bos_id, back.eos_id, back.stop_ids) == (tok.bos_id, tok.eos_id, tok.stop_ids)
    for text in TEXTS:
        assert back.encode(text) == tok.encode(text)


def small_tokenizer() -> Tokenizer:
    return train_bpe("the theme of the thesis is these three themes; ", 270)


@pytest.mark.parametrize("rows", [270, 300])
def test_an_embedding_may_have_more_rows_than_the_tokenizer_has_tokens(tmp_path, rows):
    """llama.cpp wants a token for each row; those that fill it up are marked, and are gone when it is read back."""
    tok = small_tokenizer()
    save_gguf(in_memory(Llama(replace(TINY, vocab_size=rows))), tmp_path / "model.gguf", "F32", tokenizer=tok)
    assert len(GGUFFile(tmp_path / "model.gguf").value("tokenizer.ggml.tokens")) == rows
    back = load_tokenizer(tmp_path / "model.gguf")
    assert (back.pieces, back.special, back.eos_id) == (tok.pieces, tok.special, tok.eos_id)
    assert back.encode("these are the themes") == tok.encode("these are the themes")


def test_without_a_tokenizer(tmp_path):
    save_gguf(in_memory(Llama(TINY)), tmp_path / "model.gguf", "F32")
    assert describe(tmp_path / "model.gguf").tokenizer is None
    with pytest.raises(ValueError, match="model.gguf"):
        load_tokenizer(tmp_path / "model.gguf")


# What is refused, and what is said


def refused(tmp_path: Path, expected: str, model: Llama, kind: str = "F32", **options) -> None:
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(CheckpointError, match=expected):
        save_gguf(in_memory(model), tmp_path / "model.gguf", kind, **options)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CASES["dynamic"], "model.gguf: a GGUF file cannot say that RoPE scaling is 'dynamic'; write safetensors"),
        (CASES["llama3-bands"], "does not follow the rule of Llama 3.1 .* write safetensors to keep this config"),
        (replace(TINY, max_seq_len=2**32), "max_seq_len is 4294967296, and a GGUF file would say 4294967295; write"),
        (replace(TINY, norm_eps=1e-60), "norm_eps is 0.0"),
        (replace(TINY, rope_theta=1e60), "rope.freq_base is inf"),
        (scaled("linear", 1e60, None), "factor is inf"),
    ],
    ids=["dynamic", "bands", "context", "eps", "theta", "factor"],
)
def test_configs_that_a_file_cannot_hold(tmp_path, config, expected):
    refused(tmp_path, expected, Llama(config))


def with_number(value: float, name: str = "blocks.1.feed_forward.up_proj.weight") -> Llama:
    model = random_model(TINY)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[-1] = value
    return model


@pytest.mark.parametrize("kind", GGUF_TYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(tmp_path, kind, value):
    refused(tmp_path, "up_proj.weight holds NaN or infinite numbers; compute it again", with_number(value), kind)
    refused(
        tmp_path, "norm.weight holds NaN or infinite numbers; compute it again", with_number(value, "norm.weight"), kind
    )


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (1e5, "F16", "holds numbers that are too large for F16; write it as BF16 or F32"),
        (-1e5, "F16", "holds numbers that are too large for F16; write it as BF16 or F32"),
        (3.4e38, "BF16", "holds numbers that are too large for BF16; write it"),
        (1e7, "Q8_0", "up_proj.weight has numbers up to 1e.07, too large for Q8_0, .* write F32 or BF16"),
    ],
)
def test_numbers_too_large_for_the_type(tmp_path, value, kind, expected):
    refused(tmp_path, expected, with_number(value), kind)
    save_gguf(in_memory(with_number(value)), tmp_path / "model.gguf", "F32")
    save_gguf(in_memory(with_number(65504.0)), tmp_path / "model.gguf", "F16", overwrite=True)


def test_places_that_cannot_be_written(tmp_path):
    model = Llama(TINY)
    (tmp_path / "model.gguf").write_text("mine")
    refused(tmp_path, "model.gguf already exists; pass overwrite=True to replace it, or choose another", model)
    (tmp_path / "model.gguf").unlink()
    (tmp_path / "folder.gguf").mkdir()
    for place, expected in [
        ("folder.gguf", "folder.gguf is a folder; give the name of a file, such as .*folder.gguf/model.gguf"),
        ("none/model.gguf", "none is not a folder; create it"),
    ]:
        with pytest.raises(CheckpointError, match=expected):
            save_gguf(in_memory(model), tmp_path / place, "F32", overwrite=True)
    assert [file.name for file in tmp_path.rglob("*")] == ["folder.gguf"]


def test_types_that_cannot_be_written(tmp_path):
    refused(tmp_path, "the type is 'Q4_K'; a GGUF file can be written as F32, F16, BF16, Q8_0", Llama(TINY), "Q4_K")


def test_a_tokenizer_of_another_model(tmp_path):
    refused(tmp_path, "the tokenizer has 270 tokens and the model 32", Llama(TINY), tokenizer=small_tokenizer())


def test_rows_that_do_not_fit_blocks_of_32_are_stored_as_f16_and_that_is_said(tmp_path):
    model = random_model(replace(TINY, dim=48))  # rows of 48; but o_proj has rows of 32, and down_proj of 64
    with pytest.warns(UserWarning, match="stored as F16, because Q8_0 needs rows of a multiple of 32 .*token_embd"):
        save_gguf(in_memory(model), tmp_path / "model.gguf", "Q8_0")
    types = {tensor.name: tensor.stored_type for tensor in describe(tmp_path / "model.gguf").tensors}
    assert types["blocks.0.attention.o_proj.weight"] == types["blocks.1.feed_forward.down_proj.weight"] == "Q8_0"
    assert types["embedding.weight"] == types["blocks.0.attention.q_proj.weight"] == "F16"
    back = load_model(tmp_path / "model.gguf").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(back[name], rounded(weight, types[name])), name


def test_bands_of_yarn_that_llama_cpp_ignores(tmp_path, recwarn):
    save_gguf(in_memory(Llama(CASES["yarn"])), tmp_path / "model.gguf", "F16")
    assert not recwarn
    with pytest.warns(UserWarning, match="beta_fast and beta_slow, which llama.cpp reads for other models only"):
        save_gguf(in_memory(Llama(CASES["yarn-betas"])), tmp_path / "model.gguf", "F16", overwrite=True)


# Interrupted, twice, over itself


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError("No space left on device")])
def test_a_file_that_could_not_be_finished_leaves_the_old_one(tmp_path, stop):
    """Ctrl-C or a full disk, after half of the tensors."""
    file, calls = tmp_path / "model.gguf", 0

    def progress(done: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise stop

    file.write_text("the old one")
    expected = KeyboardInterrupt if stop is KeyboardInterrupt else CheckpointError
    with pytest.raises(expected, match=None if stop is KeyboardInterrupt else "cannot be written .No space left"):
        save_gguf(in_memory(Llama(TINY)), file, "F32", overwrite=True, progress=progress)
    assert [found.name for found in tmp_path.iterdir()] == ["model.gguf"]
    assert file.read_text() == "the old one"


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on the size of files")
def test_a_disk_that_is_full(tmp_path):
    """With the system's own error, in a process that may write 100 kB to a file."""
    code = """
import resource, sys
from pathlib import Path
from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint.gguf.write import save_gguf
from llama_from_scratch.checkpoint.stored import in_memory
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_gguf(in_memory(Llama(LlamaConfig(1000, 64, 2, 2, 1, 32, 128))), Path(sys.argv[1]), "F32")
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "new.gguf")], capture_output=True, text=True)
    assert "WriteError" in run.stderr and "new.gguf cannot be written (" in run.stderr
    assert not list(tmp_path.iterdir())


def test_progress_ends_with_all_bytes_of_the_checkpoint(tmp_path):
    checkpoint, seen = in_memory(Llama(TINY)), []
    save_gguf(checkpoint, tmp_path / "model.gguf", "F16", progress=seen.append)
    assert seen == sorted(seen) and len(seen) == len(checkpoint.tensors)
    assert seen[-1] == checkpoint.n_bytes


def test_a_file_can_be_written_over_the_one_that_is_read(tmp_path):
    file, model = tmp_path / "model.gguf", random_model(TINY)
    save_gguf(in_memory(model), file, "F32")
    save_gguf(describe(file), file, "F16", overwrite=True)
    for name, weight in load_model(file).state_dict().items():
        expected = model.state_dict()[name]
        assert torch.equal(weight, rounded(expected, "F16") if weight.dim() == 2 else expected), name


WRITING = """
import resource, sys
from pathlib import Path
from llama_from_scratch.checkpoint import describe
from llama_from_scratch.checkpoint.gguf.write import save_gguf
from llama_from_scratch.files.embedded import EMBEDDED
found = describe(EMBEDDED)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
save_gguf(found, Path(sys.argv[1]), "F16")
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is counted in other units elsewhere")
def test_writing_takes_the_memory_of_a_few_tensors(tmp_path):
    """A file of 269 MB. The largest tensor takes 113 MB in fp32; the model in fp32 would take 538."""
    run = subprocess.run(
        [sys.executable, "-c", WRITING, str(tmp_path / "model.gguf")], capture_output=True, text=True, check=True
    )
    largest = max(torch.Size(tensor.shape).numel() for tensor in describe(EMBEDDED).tensors) * 4
    written = (tmp_path / "model.gguf").stat().st_size
    assert int(run.stdout) < 2 * largest < written
