"""The model that this project trained: complete, small, offline, as good as its card says, and made of what it says."""

import json
import re
import subprocess
import sys
from math import log
from pathlib import Path

import pytest
import torch
import transformers

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.checkpoint import describe
from llama_from_scratch.files.embedded import FOLIO
from llama_from_scratch.files.resolve import resolve
from llama_from_scratch.generation import Sampling, evaluate, generate
from llama_from_scratch.tokenizer import load_tokenizer
from llama_from_scratch.training.corpora import CORPORA, cache_folder, corpus_texts
from llama_from_scratch.training.log import read_log


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve(FOLIO)


@pytest.fixture(scope="module")
def folio() -> Llama:
    return Llama.from_pretrained(FOLIO)


@pytest.fixture(scope="module")
def tok():
    return load_tokenizer(FOLIO)


@pytest.fixture(scope="module")
def card(folder) -> str:
    return (folder / "MODEL_CARD.md").read_text(encoding="utf-8")


def test_folio_has_the_sizes_of_its_recipe_and_is_small(folio, tok, folder):
    sizes = (4096, 256, 6, 8, 4, 32, 704)  # MODEL_CARD.md, and the recipe beside it
    assert folio.config == LlamaConfig(*sizes, max_seq_len=256, tie_embeddings=True)
    assert len(tok) == folio.config.vocab_size
    assert {tensor.stored_type for tensor in describe(FOLIO).tensors} == {"BF16"}
    assert sum(file.stat().st_size for file in folder.iterdir()) < 20e6


def test_it_needs_no_network_and_no_current_folder(tmp_path):
    code = "import socket; socket.socket.connect = None; from llama_from_scratch import Llama; "
    code += "from llama_from_scratch.tokenizer import load_tokenizer; "
    code += f"print(Llama.from_pretrained({FOLIO!r}).config.dim, len(load_tokenizer({FOLIO!r})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["256", "4096"], done.stderr


def test_transformers_reads_the_same_model_and_tokenizer(folio, tok, folder):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    text = "KING.\nWhat say you to the Lord of hosts, and to the 12 tribes of Israël?"
    ids = tok.encode(text)
    assert transformers.AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == ids
    tokens = torch.tensor([ids * 5])[:, :128]
    torch.testing.assert_close(folio(tokens), theirs(tokens).logits, rtol=1e-4, atol=1e-3)


def test_it_writes_words_in_the_manner_of_what_it_read(folio, tok):
    """Not noise: nearly all the longer words of a long sample are words of its training texts' vocabulary or names."""
    rule = Sampling(temperature=0.8, top_p=0.95, seed=0)
    ids = list(generate(folio, tok.encode("KING HENRY.\n"), 200, rule, tok.stop_ids))
    text = tok.decode(ids)
    assert len(text.split()) > 80
    assert len(re.findall(r"\b(the|and|of|to|that|is|you|my|I)\b", text)) > len(text.split()) / 8


def rows(card: str, head: str) -> list[list[str]]:
    """The cells of the table that begins with `head`."""
    lines = card[card.index(f"| {head}") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_card_has_the_numbers_of_the_log(card, folder):
    records = list(read_log(folder / "log.jsonl"))
    steps = [r["step"] for r in records if r["kind"] == "step"]
    recipe = json.loads((folder / "recipe.json").read_text())["recipe"]
    assert steps == list(range(1, recipe["steps"] + 1))
    expected = [[f"{r['step']:,}", f"{r['loss']:.4f}"] for r in records if r["kind"] == "held_out"]
    assert rows(card, "step | held-out loss") == expected
    assert f"{records[-1]['step']:,} steps read" in card
    for corpus in recipe["data"]:
        assert CORPORA[corpus].sha256 in card and CORPORA[corpus].licence in card
    samples = [r["text"].strip("\n") for r in records if r["kind"] == "sample"]
    assert samples[0] in card and samples[-1] in card


def test_a_held_out_work_is_predicted_as_well_as_the_card_says(card, folio, tok):
    if not (cache_folder() / CORPORA["web-bible"].file).is_file():
        pytest.skip("the corpus is not in the cache folder; the command train fetches it")
    text = corpus_texts("web-bible")["ruth"]
    found = evaluate(folio, [tok.eos_id, *tok.encode(text)], 256, 128)
    written = next(row for row in rows(card, "work | bytes") if row[0] == "web-bible/ruth")
    assert written[1:3] == [f"{len(text.encode()):,}", f"{found.n_tokens:,}"]
    assert float(written[3]) == pytest.approx(found.nats_per_token, abs=2e-4)
    assert float(written[4]) == pytest.approx(found.nats / log(2) / len(text.encode()), abs=6e-4)


def test_the_curve_is_drawn_from_the_log(folder, tmp_path):
    pytest.importorskip("matplotlib")
    import model_card

    model_card.curve(list(read_log(folder / "log.jsonl")), tmp_path / "curve.svg")
    drawn, kept = (path.read_text() for path in (tmp_path / "curve.svg", folder / "curve.svg"))
    assert drawn.count("<path") == kept.count("<path") and abs(len(drawn) - len(kept)) < 0.01 * len(kept)
