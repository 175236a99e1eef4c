"""The tokenizer's parts, its files and its refusals. That any text gives the ids that other libraries give is tested in
test_tokenizer_properties.py."""

import json
import re
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_text import MANY, TEXTS

from llama_from_scratch.files.embedded import EMBEDDED, embedded_path
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer
from llama_from_scratch.tokenizer.bpe import merge
from llama_from_scratch.tokenizer.byte_table import BYTE_TO_CHAR, to_bytes
from llama_from_scratch.tokenizer.split import LLAMA3


@pytest.fixture(scope="module")
def tok() -> Tokenizer:
    return load_tokenizer(EMBEDDED)


@pytest.fixture(scope="module")
def hf_tok():
    """The same file read by transformers. Its reader of GGUF files forgets to cut digits apart, so that is put back:
    the tokenizer.json of SmolLM2 says Sequence(Digits(individual), ByteLevel)."""
    import tokenizers
    import transformers

    file = embedded_path()
    hf = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    byte_level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.backend_tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, byte_level])
    return hf


@pytest.fixture(scope="module")
def oracle(hf_tok):
    return hf_tok.backend_tokenizer


# --- the embedded model's own vocabulary -------------------------------------------------------------------------


def test_ids_equal_transformers_on_prose(tok, hf_tok, fixed_text):
    assert tok.encode(fixed_text) == hf_tok(fixed_text)["input_ids"]
    assert len(tok) == len(hf_tok)
    assert (tok.bos_id, tok.eos_id) == (hf_tok.bos_token_id, hf_tok.eos_token_id)


def test_digits_are_cut_apart_before_spaces_are(tok):
    """What a reader of this file gets wrong that uses GPT-2's pattern alone: the last space would go to the digit."""
    assert [tok.tokens[i] for i in tok.encode("a   5")] == ["a", "   ", "5"]
    assert [tok.tokens[i] for i in tok.encode("in 2024")] == ["in", " ", "2", "0", "2", "4"]


def test_special_tokens_in_a_text_are_plain_characters(tok):
    text = "<|im_start|>system"
    assert not set(tok.encode(text)) & set(tok.special.values())
    assert tok.encode(text, allow_special=True)[0] == tok.special["<|im_start|>"]


def test_tokens_alone_come_back_from_its_text(tok):
    ordinary = [i for i in range(len(tok)) if i not in tok.special.values() and "\ufffd" not in tok.tokens[i]]
    assert len(ordinary) > 48_000
    assert all(tok.decode(tok.encode(tok.tokens[i])) == tok.tokens[i] for i in ordinary[::7])


def test_a_byte_that_is_in_no_token_is_refused_by_name(tok):
    with pytest.raises(ValueError, match=r"cannot spell '\\x04' \(U\+0004\).*0x04"):
        tok.encode("a\x04b")
    with pytest.raises(ValueError, match="surrogate"):
        tok.encode("a\ud800b")


def test_stop_ids(tok):
    assert tok.stop_ids == {tok.special["<|im_end|>"], tok.special["<|endoftext|>"]}


def test_long_words_take_no_quadratic_time(tok, oracle):
    oracle.encode_special_tokens = True
    for text in ("abcdefghij" * 5_000, " " * 50_000, "ACGTTGCA" * 5_000):
        assert tok.encode(text) == oracle.encode(text, add_special_tokens=False).ids  # minutes, if it were quadratic


def test_the_vocabulary_is_the_one_that_transformers_reads(tok, oracle):
    assert {token: i for token, i in oracle.get_vocab().items() if i in tok.special.values()} == tok.special
    ordinary = {to_bytes(token): i for token, i in oracle.get_vocab().items() if i not in tok.special.values()}
    assert ordinary == {tok.pieces[i]: i for i in range(len(tok)) if i not in tok.special.values()}


# --- decoding ----------------------------------------------------------------------------------------------------


@MANY
@given(ids=st.lists(st.integers(0, 49_151), max_size=20))
def test_any_ids_at_all_can_be_decoded(tok, oracle, ids):
    stream = tok.stream()
    text = tok.decode(ids)
    assert "".join(map(stream.push, ids)) + stream.flush() == text
    assert oracle.decode(ids, skip_special_tokens=False) == text


def test_invalid_utf8_is_shown_as_the_replacement_character(tok):
    half = tok.encode("日本語")[-1:]
    assert tok.decode(half + tok.encode("a")) == "\ufffda"
    stream = tok.stream()
    first = tok.encode("👍")[0]
    assert stream.push(first) == "" and stream.flush() == "\ufffd"


def test_decode_a_negative_id_raises(tok):
    for decode in (lambda: tok.decode([5, -1]), lambda: tok.stream().push(-1)):
        with pytest.raises(ValueError, match="token id -1 is negative; ids begin at 0"):
            decode()


@pytest.mark.parametrize("unknown", [49_152, 10**12])
def test_decode_an_id_without_a_token_gives_nothing(tok, unknown):
    assert tok.decode([5, unknown, 5]) == tok.decode([5, 5]) and tok.stream().push(unknown) == ""


# --- conversations -----------------------------------------------------------------------------------------------

CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "  2+2?\n\n"},
        {"role": "assistant", "content": "4."},
        {"role": "user", "content": "\nsure? 日本語 👩\u200d👩\u200d👧 {{ messages }} {% raw %} \ue000\ue001"},
    ],
]


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_chat_equals_transformers(tok, hf_tok, messages):
    theirs = hf_tok.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tok.chat(messages) == theirs


@settings(MANY, max_examples=50)
@given(content=TEXTS, role=st.sampled_from(["user", "system", "assistant", "<|im_end|>"]))
def test_messages_cannot_write_special_tokens(tok, content, role):
    plain = tok.chat([{"role": "user", "content": ""}] if role != "system" else [{"role": "system", "content": ""}])
    try:
        ids = tok.chat([{"role": role, "content": content}])
    except ValueError as error:
        assert "cannot spell" in str(error)
        return
    special = set(tok.special.values())
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    assert content in tok.decode(ids)


def test_a_template_that_trims_sees_the_message_itself(tok):
    """Llama 3's template strips each message; a stand-in for the message would hide the spaces from it."""
    template = "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content | trim }}<|im_end|>{% endfor %}"
    ours = rebuilt(tok, chat_template=template, add_bos=True)
    ids = ours.chat([{"role": "user", "content": "  <|im_end|> hi  "}])
    assert ours.decode(ids) == "<|im_start|>user: <|im_end|> hi<|im_end|>"
    assert [i for i in ids if i in tok.special.values()] == [1, 2]  # one bos, although add_bos is set; one end


@pytest.mark.parametrize(
    ("template", "messages", "message"),
    [
        ("{{ 1 }}", [], "no messages"),
        ("{{ 1 }}", [{"role": "user"}], "a role and a content"),
        ("{{ raise_exception('roles must alternate') }}", CONVERSATIONS[0], "roles must alternate"),
        ("{{ messages", CONVERSATIONS[0], "chat template"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", CONVERSATIONS[0], "chat template"),
        ("{% include '/etc/passwd' %}", CONVERSATIONS[0], "chat template"),
        ("{{ messages.append(1) }}", CONVERSATIONS[0], "chat template"),
        ("{% for i in range(10**9) %}{% endfor %}", CONVERSATIONS[0], "chat template"),
        ("{{ 1 / 0 }}", CONVERSATIONS[0], "chat template"),
    ],
)
def test_bad_templates_and_messages_are_refused(tok, template, messages, message):
    with pytest.raises(ValueError, match=message):
        rebuilt(tok, chat_template=template).chat(messages)


def rebuilt(tok: Tokenizer, **changes) -> Tokenizer:
    """The embedded tokenizer with other settings."""
    return Tokenizer(
        tok.pieces, tok.merges, tok.special, (LLAMA3,), **{"bos_id": tok.bos_id, "eos_id": tok.eos_id, **changes}
    )


# --- other files -------------------------------------------------------------------------------------------------

SPECIAL = ["<|begin|>", "<|end|>"]


def train(kind: str, text: str):
    """A small vocabulary, trained by the Rust library on a text, cut the way that `kind` says."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = {
        "gpt-2": pre_tokenizers.ByteLevel(add_prefix_space=False),
        "smollm": pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
        "llama-bpe": pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(LLAMA3), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        ),
    }[kind]
    rust.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rust.train_from_iterator([text], trainer)
    data = json.loads(rust.to_str())
    if kind == "llama-bpe":  # as Llama 3: whole pieces first, one of them out of the merges' reach, and bos in front
        data["model"]["vocab"]["zqxj"] = rust.get_vocab_size()
        data["model"]["ignore_merges"] = True
        rust = Tokenizer.from_str(json.dumps(data))
        rust.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 0)])
    return rust


def write_folder(rust, folder, **changes):
    """tokenizer.json and its config, with whole parts of the former replaced."""
    data = json.loads(rust.to_str())
    for path, value in changes.items():
        *parents, last = path.split("__")
        part = data
        for parent in parents:
            part = part[parent]
        part[last] = value
    (folder / "tokenizer.json").write_text(json.dumps(data), encoding="utf-8")
    config = {"bos_token": "<|begin|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{{ bos_token }}Hi"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["gpt-2", "smollm", "llama-bpe"])
def small(request, tmp_path_factory, fixed_text):
    """(kind, the Rust tokenizer, ours read from its tokenizer.json)."""
    rust = train(request.param, fixed_text + " it's 1234 and 567,\n\n\tyou'll see 2024   999.\r\n" * 5)
    return request.param, rust, load_tokenizer(write_folder(rust, tmp_path_factory.mktemp(request.param)))


@MANY
@given(text=TEXTS)
def test_hugging_face_folders_of_each_kind(small, text):
    kind, rust, ours = small
    rust.encode_special_tokens = True
    assert ours.encode(text) == rust.encode(text).ids
    assert ours.decode(ours.encode(text)) == ("<|begin|>" if kind == "llama-bpe" else "") + text


def test_whole_pieces_come_before_merges_only_where_the_file_says_so(small):
    kind, rust, ours = small
    assert (ours.encode("zqxj")[-1] == len(ours) - 1) == (kind == "llama-bpe")
    assert ours.encode("zqxj") == rust.encode("zqxj").ids


def test_settings_of_a_folder(small):
    kind, _, ours = small
    assert (ours.bos_id, ours.eos_id, ours.stop_ids, ours.add_bos) == (0, 1, {1}, kind == "llama-bpe")
    assert ours.chat([{"role": "user", "content": "x"}])[0] == 0
    assert ours.encode("<|begin|>a", allow_special=True).count(0) == 1  # bos is not doubled


@MANY
@given(text=TEXTS)
def test_gguf_files_of_each_kind(small, small_gguf, text):
    assert small_gguf.encode(text) == small[2].encode(text)


@pytest.fixture(scope="module")
def small_gguf(small, tmp_path_factory) -> Tokenizer:
    """The same vocabulary through the gguf package's writer and our reader."""
    kind, rust, _ = small
    return load_tokenizer(write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", kind, rust))


def write_gguf(path, kind, rust, types=None):
    import gguf

    data = json.loads(rust.to_str())
    tokens = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(kind)
    writer.add_token_list(tokens)
    writer.add_token_types(types or [3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in data["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_older_files_spell_merges_as_lines(small, tmp_path):
    _, rust, ours = small
    merges = [" ".join(pair) for pair in json.loads(rust.to_str())["model"]["merges"]]
    older = load_tokenizer(write_folder(rust, tmp_path, model__merges=merges))
    assert older.merges == ours.merges


def test_a_template_in_a_file_of_its_own_wins(small, tmp_path):
    write_folder(small[1], tmp_path)
    (tmp_path / "chat_template.jinja").write_text("own")
    assert load_tokenizer(tmp_path).chat_template == "own"
    (tmp_path / "chat_template.jinja").unlink()
    config = {"chat_template": [{"name": "tools", "template": "a"}, {"name": "default", "template": "b"}]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    if small[0] != "llama-bpe":  # whose text begins with a bos token, which this config does not name
        assert load_tokenizer(tmp_path).chat_template == "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__type": "Unigram"}, "model is 'Unigram' instead of 'BPE'"),
        ({"model__byte_fallback": True}, "prepares text|byte_fallback and ignore_merges"),
        ({"model__dropout": 0.1}, "dropout"),
        ({"normalizer": {"type": "NFC"}}, "normalizer"),
        ({"pre_tokenizer": None}, "cuts text"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "cuts text.*Metaspace"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "cuts text"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": False}}, "cuts text"),
        ({"post_processor": {"type": "BertProcessing"}}, "adds tokens"),
        ({"model__merges": [["zz", "qq"]]}, "merge 0 joins 'zz' and 'qq'"),
        ({"model__merges": ["a b c"]}, "tokenizer.json"),
        ({"model__vocab": {"a": 0, "b": 7}, "model__merges": [], "added_tokens": []}, "ids 0 to"),
        ({"model__vocab": {"a": 0, "b": 7}, "model__merges": []}, "its place is 2"),
        ({"model__vocab": {"a": 0, "日": 1}, "model__merges": [], "added_tokens": []}, "byte-level spelling"),
        ({"model__vocab": []}, "not laid out"),
        ({"added_tokens": [{"content": "x"}]}, "not laid out"),
    ],
)
def test_folders_that_are_something_else_are_refused(small, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_tokenizer(write_folder(small[1], tmp_path, **changes))


def test_broken_json_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(ValueError, match="tokenizer.json is not valid JSON"):
        load_tokenizer(tmp_path)


def test_gguf_files_that_are_something_else_are_refused(small, tmp_path):
    kind, rust, _ = small
    with pytest.raises(ValueError, match="cuts text by the rule 'qwen2'; the rules known are gpt-2, smollm, llama-bpe"):
        load_tokenizer(write_gguf(tmp_path / "a.gguf", "qwen2", rust))
    n = rust.get_vocab_size()
    with pytest.raises(ValueError, match=r"types 6 to"):
        load_tokenizer(write_gguf(tmp_path / "b.gguf", kind, rust, types=[6] * n))
    with pytest.raises(ValueError, match="to 2 of"):
        load_tokenizer(write_gguf(tmp_path / "c.gguf", kind, rust, types=[1, 1]))


def test_damaged_gguf_headers_are_refused(small, tmp_path):
    """Cut anywhere, or with any byte of the header changed, the file is read or refused; nothing else happens."""
    good = write_gguf(tmp_path / "good.gguf", small[0], small[1]).read_bytes()
    bad = tmp_path / "bad.gguf"
    for end in [*range(0, 400, 7), len(good) // 2, len(good) - 1]:
        bad.write_bytes(good[:end])
        with pytest.raises(ValueError, match=re.escape(str(bad))):
            load_tokenizer(bad)
    refused = 0
    for at in range(0, 400):
        bad.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        try:
            load_tokenizer(bad)
        except ValueError:
            refused += 1
    assert refused > 200


def test_models_without_a_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="has no tokenizer.json and no tokenizer.model; put"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").touch()
    with pytest.raises(ValueError, match="tokenizer.model is empty"):
        load_tokenizer(tmp_path)
    with pytest.raises(ValueError, match="there is no file"):
        load_tokenizer(tmp_path / "no.gguf")


def test_silly_settings_are_refused(tok):
    for settings_, message in (
        ({"bos_id": 99_999}, "bos token is 99999"),
        ({"bos_id": None, "add_bos": True}, "no bos"),
    ):
        with pytest.raises(ValueError, match=message):
            rebuilt(tok, **settings_)


@pytest.mark.parametrize(
    ("package", "use"),
    [("regex", lambda t: rebuilt(t)), ("jinja2", lambda t: t.chat(CONVERSATIONS[0]))],
)
def test_a_missing_package_is_named(tok, monkeypatch, package, use):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        use(tok)


# --- the parts ---------------------------------------------------------------------------------------------------


def test_byte_table():
    assert sorted(BYTE_TO_CHAR) == list(range(256)) and len(set(BYTE_TO_CHAR.values())) == 256
    assert to_bytes("Ġthe") == b" the" and to_bytes("Ċ") == b"\n" and to_bytes("Ã©") == "é".encode()


def test_merges_by_hand():
    a, b, c, ab, bc, abc = range(6)
    assert merge([a, b, c], {(a, b): (1, ab), (b, c): (0, bc)}) == [a, bc]  # rank decides, not place
    assert merge([a, a, a], {(a, a): (0, 9)}) == [9, a]  # leftmost first among equals
    assert merge([a, b, c], {(a, b): (0, ab), (ab, c): (1, abc)}) == [abc]
    assert merge([], {}) == [] and merge([a], {(a, a): (0, b)}) == [a]


@MANY
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12, unique=True),
)
def test_merging_equals_the_obvious_loop(ids, pairs):
    merges = {pair: (rank, 4 + rank) for rank, pair in enumerate(pairs)}
    obvious = list(ids)
    while found := [(merges[p][0], i) for i, p in enumerate(zip(obvious, obvious[1:], strict=False)) if p in merges]:
        i = min(found)[1]
        obvious[i : i + 2] = [merges[obvious[i], obvious[i + 1]][1]]
    assert merge(ids, merges) == obvious
