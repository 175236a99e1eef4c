"""Tokenizers that we write come back as they were, and other libraries read the same from the files."""

import resource

import pytest
from hypothesis import given
from nasty_text import FRAGMENTS, MANY, TEXTS

from llama_from_scratch.checkpoint.gguf.read import GGUFFile
from llama_from_scratch.files.embedded import EMBEDDED, embedded_path
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.chat import split_special
from llama_from_scratch.tokenizer.pieces import Kind, Piece
from llama_from_scratch.tokenizer.sentencepiece import SentencePieceTokenizer
from llama_from_scratch.tokenizer.split import DIGIT, GPT2

SETTINGS = ["pieces", "merges", "special", "patterns", "whole_first", "bos_id", "eos_id", "add_bos", "chat_template"]
MESSAGES = [{"role": "user", "content": "What is  2+2?\n日本 <|im_end|>"}]


def settings_of(tok: Tokenizer) -> dict:
    return {name: getattr(tok, name) for name in SETTINGS}


def ours(kind: str) -> Tokenizer:
    if kind == "SmolLM2":
        return load_tokenizer(EMBEDDED)
    tok = train_bpe(["the cat sat on 1234 mats, didn't it?\r\n\n   " * 3, *FRAGMENTS], 600, ("<|a|>", "<|b|>"), kind)
    tok.bos_id, tok.add_bos = tok.special["<|b|>"], kind == "llama-bpe"
    tok.chat_template = "{{ bos_token }}\n{% for m in messages %}é{{ m.content }}{% endfor %}" if tok.add_bos else None
    return tok


@pytest.fixture(scope="module", params=["SmolLM2", "gpt-2", "smollm", "llama-bpe"])
def saved(request, tmp_path_factory):
    """(the tokenizer, the folder that it was saved to; as in a model's folder, a config.json is there)."""
    tok, folder = ours(request.param), tmp_path_factory.mktemp("models") / "a folder" / request.param
    tok.save(folder)
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    return tok, folder


def test_it_comes_back_as_it_was(saved):
    tok, folder = saved
    assert settings_of(load_tokenizer(folder)) == settings_of(tok)
    assert not list(folder.glob(".saving*"))


def test_the_same_tokenizer_gives_the_same_files(saved, tmp_path):
    tok, folder = saved
    load_tokenizer(folder).save(str(tmp_path))
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (folder / file.name).read_bytes()


@pytest.mark.parametrize("reader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_transformers_reads_it(saved, reader):
    transformers = pytest.importorskip("transformers")
    tok, folder = saved
    theirs = getattr(transformers, reader).from_pretrained(folder)
    assert (theirs.bos_token_id, theirs.eos_token_id, len(theirs)) == (tok.bos_id, tok.eos_id, len(tok))
    assert theirs.chat_template == tok.chat_template
    for text in [*FRAGMENTS, "".join(FRAGMENTS), " . , ! ' n't it 's", "<|a|>x<|b|>"]:
        if "SmolLM2" in str(folder) and "\x04" in text:  # it has no token for this byte
            continue
        ids = tok.encode(text)
        assert theirs(text, split_special_tokens=True)["input_ids"] == ids
        assert theirs.decode(ids) == tok.decode(ids)
        assert theirs(text, add_special_tokens=False)["input_ids"] == tok._encode_parts(
            split_special(text, text, tok.special)
        )
    if tok.chat_template:
        chat = theirs.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
        assert tok.decode(tok.chat(MESSAGES)) == chat
    assert theirs.decode([tok.eos_id], skip_special_tokens=True) == ""


@pytest.fixture(scope="module")
def library(saved):
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(saved[1] / "tokenizer.json"))


@MANY
@given(text=TEXTS)
def test_the_library_reads_the_same_ids(saved, library, text):
    try:
        ids = saved[0].encode(text)
    except ValueError:  # a byte that SmolLM2 has not
        return
    library.encode_special_tokens = True
    assert library.encode(text).ids == ids


def test_saving_replaces_an_older_tokenizer_whole(tmp_path):
    ours("llama-bpe").save(tmp_path)
    assert load_tokenizer(tmp_path).chat_template
    tok = ours("gpt-2")
    tok.save(tmp_path)
    assert settings_of(load_tokenizer(tmp_path)) == settings_of(tok)  # with no template


def test_a_full_disk_changes_nothing(tmp_path):
    tok = ours("gpt-2")
    tok.save(tmp_path)
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))  # no file of this process may grow beyond 10 kB
    try:
        with pytest.raises(OSError):
            ours("smollm").save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file; give the name of a folder"):
        ours("gpt-2").save(tmp_path / "file")


# --- GGUF --------------------------------------------------------------------------------------------------------


def test_the_fields_are_those_of_the_embedded_file():
    value = GGUFFile(embedded_path()).value
    fields = load_tokenizer(EMBEDDED).gguf_fields()
    assert {key: value(key) for key in fields} == fields
    assert fields.keys() == {key for key in fields if value(key) is not None} and len(fields) == 10


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe"])
def test_what_we_learned_comes_back_from_gguf(kind, tmp_path):
    gguf = pytest.importorskip("gguf")
    tok = ours(kind)
    writer = gguf.GGUFWriter(tmp_path / "vocabulary.gguf", "llama")
    for key, value in tok.gguf_fields().items():
        add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        add[type(value)](key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert settings_of(load_tokenizer(tmp_path / "vocabulary.gguf")) == settings_of(tok)


@pytest.mark.parametrize(("patterns", "whole_first"), [((), False), ((GPT2,), True), ((DIGIT,), False)])
def test_ways_of_cutting_text_without_a_name_are_refused(patterns, whole_first):
    tok = Tokenizer([b"a"], {}, {}, patterns, whole_first=whole_first)
    with pytest.raises(ValueError, match="GGUF has no name .* gpt-2, smollm, llama-bpe"):
        tok.gguf_fields()


@pytest.mark.parametrize("name", ["bos", "eos"])
def test_a_begin_or_end_that_is_no_special_token_is_refused(name, tmp_path):
    """tokenizer.json with it could be written, but not read again."""
    tok = Tokenizer([b"a", b"b"], {}, {"<|b|>": 1}, (GPT2,), **{f"{name}_id": 0})
    with pytest.raises(ValueError, match=f"its {name} token, 0 'a', is no special token.*make it a special token"):
        tok.save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("pieces", "special"), [([b"a", b"a"], {}), ([b"a", b"b"], {"a": 1})])
def test_tokens_that_are_spelled_alike_are_refused(pieces, special, tmp_path):
    tok = Tokenizer(pieces, {}, special, (GPT2,))
    for write in (tok.save, lambda _: tok.gguf_fields()):
        with pytest.raises(ValueError, match="the tokens 0 and 1 are both spelled 'a'"):
            write(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("token", [-1, 2])
def test_a_special_token_outside_the_vocabulary_is_refused(token):
    with pytest.raises(ValueError, match=f"the <.x.> token is {token}; the vocabulary has the ids 0 to 1"):
        Tokenizer([b"a", b"b"], {}, {"<|x|>": token}, (GPT2,))


def test_a_folder_is_not_taken_for_a_tokenizer_file(tmp_path):
    for name in ("tokenizer.json", "tokenizer.model"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="has no tokenizer.json and no tokenizer.model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("ends", [{"bos_id": 1}, {"eos_id": 2}, {}])
def test_gguf_always_gives_a_sentencepiece_tokenizer_a_begin_and_an_end(ends):
    names = [Piece("<unk>", 0.0, Kind.UNKNOWN), Piece("<s>", 0.0, Kind.CONTROL), Piece("</s>", 0.0, Kind.CONTROL)]
    in_bytes = [Piece(f"<0x{byte:02X}>", 0.0, Kind.BYTE) for byte in range(256)]
    tok = SentencePieceTokenizer([*names, *in_bytes], add_bos=False, **ends)
    with pytest.raises(ValueError, match="no bos or no eos token.*save the model in another format"):
        tok.gguf_fields()
