"""Our own chat formats, against their sources; and special tokens in messages, which stay ordinary text."""

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import MANY, TEXTS
from vocabularies import mistral, read, tiktoken_lines

from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.split import LLAMA3

# What the published templates of SmolLM2 (without its default system message) and Llama 2 Chat do, in our words.
TEMPLATES = {
    "chatml": """\
{%- for message in messages -%}
    {{ '<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' ~ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
""",
    "llama2": """\
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' -%}
{%- for message in (messages[1:] if system is string else messages) -%}
    {%- if (message['role'] == 'user') != (loop.index0 is even) -%}{{ raise_exception('in turn') }}{%- endif -%}
    {%- set head = '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' if loop.first and system is string else '' -%}
    {%- if message['role'] == 'user' -%}
        {{ bos_token ~ '[INST] ' ~ (head ~ message['content']) | trim ~ ' [/INST]' }}
    {%- else -%}
        {{ ' ' ~ message['content'] | trim ~ ' ' ~ eos_token }}
    {%- endif -%}
{%- endfor -%}
""",
}


def vocabulary(form: str) -> Tokenizer:
    """A vocabulary of the kind that has this format, from a file without a template."""
    if form == "llama2":
        return read(mistral())
    if form == "chatml":
        return train_bpe("the cat sat on the mat " * 9, 264, special=("<|im_start|>", "<|im_end|>"))
    newlines = [b"\n" * n for n in (2, 3)]  # so that it shows where a text is cut
    return read(tiktoken_lines([*(bytes([byte]) for byte in range(256)), *newlines]))


@pytest.fixture(scope="module", params=["llama3", "chatml", "llama2"])
def format_and_tok(request) -> tuple[str, Tokenizer]:
    return request.param, vocabulary(request.param)


@pytest.fixture(scope="module", params=TEMPLATES)
def case(request, tmp_path_factory):
    """(format, our vocabulary, the same in transformers with the published template)."""
    import transformers

    ours = vocabulary(request.param)
    folder = tmp_path_factory.mktemp("hf")
    ours.save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = TEMPLATES[request.param]
    return request.param, ours, theirs


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant in turn, after a system message if there is one."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


TALKS = [
    talk("What is the capital of France?"),
    talk("  spaces around \n", "\n an answer  ", "more"),
    talk("Hi", system="Be brief."),
    talk("Hi", "Hello.", " who\r\nare you? 日本語 👩\u200d👩\u200d👧", system="\n  Two lines,\nand spaces. "),
    talk("{{ messages }} {% raw %} {# #} \ue000\ue001 \U000f003c", "", "x"),
]


@pytest.mark.parametrize("messages", TALKS)
def test_format_equals_published_template(case, messages):
    form, ours, theirs = case
    assert ours.chat_template is None
    ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.chat(messages, form) == ids


@pytest.mark.parametrize("messages", TALKS)
def test_template_in_file_equals_format(case, messages, tmp_path):
    form, ours, theirs = case
    theirs.save_pretrained(tmp_path)
    from_file = load_tokenizer(tmp_path)
    assert from_file.chat_template == TEMPLATES[form]
    assert from_file.chat_format() == "template"
    assert from_file.chat(messages) == ours.chat(messages, form)


@pytest.mark.parametrize("messages", [*TALKS, talk("\n\nx", "\n", " \n y")])
def test_llama3_equals_metas_chat_format(messages):
    """Each piece of text encoded on its own by tiktoken, as llama_models.llama3.chat_format does: header, blank line,
    and the content with its spaces and newlines."""
    tok = vocabulary("llama3")
    ranks = {tok.pieces[i]: i for i in range(len(tok)) if i not in tok.special.values()}
    meta = tiktoken.Encoding("meta", pat_str=LLAMA3, mergeable_ranks=ranks, special_tokens=tok.special)

    def header(role: str) -> list[int]:
        start, end = (meta.encode_single_token(f"<|{side}_header_id|>") for side in ("start", "end"))
        return [start, *meta.encode_ordinary(role), end, *meta.encode_ordinary("\n\n")]

    expected = [meta.encode_single_token("<|begin_of_text|>")]
    for message in messages:
        expected += header(message["role"]) + meta.encode_ordinary(message["content"])
        expected.append(meta.encode_single_token("<|eot_id|>"))
    assert tok.chat(messages) == expected + header("assistant")


def test_chatml_with_add_bos_writes_bos_once():
    """The format has no bos token of its own: one is put before it, unless that is how it begins anyway."""
    ours = vocabulary("chatml")
    plain = ours.chat(talk("a"))
    for name, expected in (("<|im_end|>", [ours.special["<|im_end|>"], *plain]), ("<|im_start|>", plain)):
        settings = {"bos_id": ours.special[name], "add_bos": True}
        other = Tokenizer(ours.pieces, ours.merges, ours.special, ours.patterns, **settings)
        assert other.chat(talk("a")) == expected


@pytest.mark.parametrize(("form", "times"), [("llama3", 1), ("llama2", 2)])
def test_format_writes_bos_itself(form, times):
    """Although texts of these vocabularies begin with it, too. Llama 2 has one for each question."""
    tok = vocabulary(form)
    assert tok.add_bos and tok.chat(talk("a", "b", "c"), form).count(tok.bos_id) == times


SPECIAL_TEXTS = ["<s>", "</s>", "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>", "<|begin_of_text|>"]


@MANY
@given(
    content=st.lists(st.one_of(TEXTS, st.sampled_from(SPECIAL_TEXTS)), max_size=4).map("".join),
    place=st.integers(0, 2),
)
def test_messages_cannot_write_special_tokens(format_and_tok, content, place):
    """Any content in any role: the special tokens are those of a conversation about nothing. Llama 2's marks are not
    special tokens; a message that holds one is refused."""
    form, tok = format_and_tok
    texts = ["a", "b", "c"]
    plain = tok.chat(talk(*texts, system="d"), form)
    messages = talk(*(content if i == place else text for i, text in enumerate(texts)), system="d")
    try:
        ids = tok.chat(messages, form)
    except ValueError as error:
        assert form == "llama2" and "[INST]" in content and "a mark of the model's own format" in str(error)
        return
    special = set(tok.special.values())
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    written = content.strip() if form == "llama2" else content
    assert (written.replace("▁", " ") if form == "llama2" else written) in tok.decode(ids)


@pytest.mark.parametrize("mark", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
def test_llama2_marks_in_messages_raise(mark):
    tok = read(mistral())
    for messages in (talk(f"a {mark} b"), talk("a", f"b{mark}", "c"), talk("a", system=mark)):
        with pytest.raises(ValueError, match="a message holds .* take it out"):
            tok.chat(messages, "llama2")


@pytest.mark.parametrize(
    "messages",
    [
        talk("a", "b"),
        talk(system="only"),
        [*talk("a"), *talk("b")],
        [*talk("a"), {"role": "system", "content": "late"}, *talk("b")],
    ],
)
def test_llama2_wrong_order_raises(messages):
    with pytest.raises(ValueError, match="user and assistant in turn, with a user last; got "):
        read(mistral()).chat(messages, "llama2")


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "tool", "content": "x"}, "the role 'tool'; the roles are system, user and assistant"),
        ({"role": "user"}, "a role and a content"),
        ({"role": "user", "content": None}, "a role and a content"),
        ({"role": "user", "content": "x", "name": "Ann"}, "has the key 'name'; the keys are role and content"),
    ],
)
def test_wrong_message_raises(format_and_tok, message, said):
    form, tok = format_and_tok
    with pytest.raises(ValueError, match=said):
        tok.chat([message], form)


def test_no_messages_raises(format_and_tok):
    with pytest.raises(ValueError, match="no messages"):
        format_and_tok[1].chat([], format_and_tok[0])


# --- which format ------------------------------------------------------------------------------------------------


def test_format_shown_by_vocabulary_is_taken(format_and_tok):
    form, tok = format_and_tok
    if form == "llama2":  # <s> and </s> show nothing: many models have them
        with pytest.raises(ValueError, match="choose one with --chat-format .*: llama3, chatml, llama2"):
            tok.chat(talk("Hi"))
    else:
        assert tok.chat_format() == form and tok.chat(talk("Hi")) == tok.chat(talk("Hi"), form)


def test_format_given_overrides_template():
    tok = vocabulary("chatml")
    tok.chat_template = "{{ messages[0].content }}"
    assert tok.decode(tok.chat(talk("Hi"))) == "Hi"
    assert tok.decode(tok.chat(talk("Hi"), "chatml")) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_vocabulary_without_format_asks_for_choice():
    tok = train_bpe("the cat sat on the mat", 260)
    with pytest.raises(ValueError, match="no chat template, .* choose one with --chat-format .* use generate"):
        tok.chat(talk("Hi"))


def test_format_that_vocabulary_cannot_write_raises(format_and_tok):
    form, tok = format_and_tok
    for other in {"llama3", "chatml", "llama2"} - {form}:
        with pytest.raises(ValueError, match=f"{other} needs the special token <.*>, which this model's vocabulary"):
            tok.chat(talk("Hi"), other)
    with pytest.raises(ValueError, match="chat format is 'alpaca'; it must be one of llama3, chatml, llama2"):
        tok.chat(talk("Hi"), "alpaca")
