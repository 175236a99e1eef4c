"""The pages at the end of the book say what the code says."""

import re
from math import prod

import pytest
from places import ROOT

from llama_from_scratch import PRESETS, Llama, LlamaConfig
from llama_from_scratch.checkpoint.names import NAMES
from llama_from_scratch.plots import COLOUR

BOOK = ROOT / "book"
PACKAGE = BOOK.parent / "llama_from_scratch"
OFF_THE_PAGE = {"__main__", "cli", "bench"}  # commands: their help says what they do


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table whose first heading is `heading`, without their code marks."""
    lines = (BOOK / page).read_text(encoding="utf8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {heading} |")) + 2
    table = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip().strip("`") for cell in line.strip("|").split("|")])
    return table


def names() -> list[tuple[str, str, str, str, str]]:
    """Of each layer: ours, Hugging Face's, Meta's and GGUF's name, with {} for its number, and its weight's shape."""
    prefixes = ("blocks.{}.", "model.layers.{}.", "layers.{}.", "blk.{}.")
    inside = [
        [p + name for p, name in zip(prefixes, row[1:5], strict=True)] + row[5:]
        for row in rows("names.md", "in a layer")
    ]
    around = [row[1:] for row in rows("names.md", "around them")]
    return [tuple(row) for row in around[:1] + inside + around[1:]]


def test_names_are_those_of_the_package():
    assert [row[:4] for row in names()] == NAMES


def test_names_of_meta_are_those_that_gguf_knows():
    """An independent table: gguf lists, for each of its tensors, the names in other formats."""
    gguf = pytest.importorskip("gguf")
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 1)
    for _, hugging_face, meta, ours, _ in names():
        for theirs in (meta, hugging_face):
            assert known.get_name(theirs.format(0)) == ours.format(0), theirs


def test_shapes_are_those_of_a_model():
    # No two of these numbers, and no two products of them, are equal.
    letters = {"vocab": 101, "dim": 20, "heads": 6, "kv_heads": 2, "head_dim": 14, "ffn_dim": 53}
    config = LlamaConfig(
        vocab_size=101, dim=20, n_layers=1, n_heads=6, n_kv_heads=2, head_dim=14, ffn_dim=53, tie_embeddings=False
    )

    def numbers(shape: str) -> list[int]:
        return [prod(letters[name] for name in size.split("·")) for size in shape.strip("[]").split(", ")]

    table = {f"{ours.format(0)}.weight": numbers(shape) for ours, *_, shape in names()}
    assert table == {name: list(weight.shape) for name, weight in Llama(config).state_dict().items()}


def test_numbers_of_smollm2_under_notation():
    config = PRESETS["SmolLM2-135M"]
    table = {in_code: number for _, _, in_code, number in rows("notation.md", "letter")}
    assert table["dim"] == str(config.dim)
    assert table["head_dim"] == str(config.head_dim)
    assert table["vocab_size"] == str(config.vocab_size)
    assert table["n_layers"] == str(config.n_layers)
    assert table["n_heads"] == str(config.n_heads)
    assert table["n_kv_heads"] == str(config.n_kv_heads)
    assert table["seq`, `keys"] == f"at most {config.max_seq_len}"
    assert table["norm_eps"] == "$10^{-5}$" and config.norm_eps == 1e-5
    (shared,) = (number for letter, *_, number in rows("notation.md", "letter") if letter == "$G = H/K$")
    assert shared == str(config.n_heads // config.n_kv_heads)


def test_colours_under_notation():
    shown = [re.search(r"#\w+", colour).group() for colour, _ in rows("notation.md", "colour")]
    assert shown == [colour for idea, colour in COLOUR.items() if idea != "faint"]


def test_every_part_of_the_package_is_on_the_page_about_it():
    page = (BOOK / "api.md").read_text(encoding="utf8")
    shown = set(re.findall(r"^\.\. automodule:: llama_from_scratch\.(\w+)", page, re.MULTILINE))
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert shown == parts - {"__init__"} - OFF_THE_PAGE


def test_every_paper_that_the_package_names_is_in_the_bibliography():
    known = set(re.findall(r"eprint\s*=\s*\{([\d.]+)\}", (BOOK / "references.bib").read_text(encoding="utf8")))
    for file in sorted(PACKAGE.rglob("*.py")):
        named = set(re.findall(r"arXiv[\s#]+(\d{4}\.\d{4,5})", file.read_text(encoding="utf8")))
        assert named <= known, file.name


def test_glossary_is_in_order_and_explains_its_own_words():
    text = (BOOK / "glossary.md").read_text(encoding="utf8").split("```")[1].partition("\n")[2]
    entries = [[line for line in entry.splitlines() if not line.startswith(" ")] for entry in text.split("\n\n")]
    first = [re.sub(r"[^a-z]", "", names[0].lower()) for names in entries]
    assert first == sorted(first)
    used = re.findall(r"\{term\}`(?:[^`<]*<)?([^`<>]+)>?`", text)
    assert {term.lower() for term in used} <= {name.lower() for names in entries for name in names}
