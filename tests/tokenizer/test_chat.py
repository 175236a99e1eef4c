"""Chat formats: our own against templates as they are published, run by transformers; and what a message cannot do."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nasty_text import MANY, TEXTS
from vocabularies import mistral, read, tiktoken_lines

from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe

# What the published templates do, in our words: those of Llama 3 Instruct, SmolLM2 (less its standard system message)
# and Llama 2 Chat.
TEMPLATES = {
    "Llama 3": """\
{%- for message in messages -%}
    {%- if loop.first %}{{ bos_token }}{% endif -%}
    {{ '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\n\n' ~ message['content'] | trim ~ '<|eot_id|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif -%}
""",
    "ChatML": """\
{%- for message in messages -%}
    {{ '<|im_start|>' ~ message['role'] ~ '\n' ~ message['content'] ~ '<|im_end|>' ~ '\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\n' }}{%- endif -%}
""",
    "Llama 2": """\
{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' -%}
{%- for message in (messages[1:] if system is string else messages) -%}
    {%- if (message['role'] == 'user') != (loop.index0 is even) -%}{{ raise_exception('by turns') }}{%- endif -%}
    {%- set head = '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' if loop.first and system is string else '' -%}
    {%- if message['role'] == 'user' -%}
        {{ bos_token ~ '[INST] ' ~ (head ~ message['content']) | trim ~ ' [/INST]' }}
    {%- else -%}
        {{ ' ' ~ message['content'] | trim ~ ' ' ~ eos_token }}
    {%- endif -%}
{%- endfor -%}
""",
}


@pytest.fixture(scope="module", params=TEMPLATES)
def format_and_tok(request) -> tuple[str, Tokenizer]:
    """A vocabulary of the kind that has this format, from a file without a template."""
    if request.param == "Llama 2":
        return request.param, read(mistral())
    if request.param == "ChatML":
        return request.param, train_bpe("the cat sat on the mat " * 9, 264, special=("<|im_start|>", "<|im_end|>"))
    return request.param, read(tiktoken_lines([bytes([byte]) for byte in range(256)]))


@pytest.fixture(scope="module")
def case(format_and_tok, tmp_path_factory):
    """(name, ours, the same vocabulary in transformers with the published template)."""
    import transformers

    name, ours = format_and_tok
    folder = tmp_path_factory.mktemp("hf")
    ours.save(folder)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = TEMPLATES[name]
    return name, ours, theirs


def talk(*turns: str, system: str | None = None) -> list[dict[str, str]]:
    """User and assistant by turns, after a system message if there is one."""
    messages = [{"role": "system", "content": system}] if system is not None else []
    return messages + [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


TALKS = [
    talk("What is the capital of France?"),
    talk("  spaces around \n", "\n an answer  ", "more"),
    talk("Hi", system="Be brief."),
    talk("Hi", "Hello.", " who\r\nare you? 日本語 👩\u200d👩\u200d👧", system="\n  Two lines,\nand spaces. "),
    talk("{{ messages }} {% raw %} {# #} \ue000\ue001", "", "x"),
]


@pytest.mark.parametrize("messages", TALKS)
def test_our_own_formats_equal_the_published_templates(case, messages):
    _, ours, theirs = case
    assert ours.chat_template is None
    assert ours.chat(messages) == theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)


@pytest.mark.parametrize("messages", TALKS)
def test_a_template_in_the_file_gives_the_same(case, messages, tmp_path):
    _, ours, theirs = case
    theirs.save_pretrained(tmp_path)
    from_file = load_tokenizer(tmp_path)
    assert from_file.chat_template == TEMPLATES[case[0]]
    assert from_file.chat(messages) == ours.chat(messages)


def test_bos_is_written_once(case):
    """By the format, although texts of this vocabulary begin with it, too. Llama 2 has one for each question."""
    name, ours, _ = case
    if name == "ChatML":  # whose format has no bos token of its own: one is put before it
        settings = {"bos_id": 0, "add_bos": True}
        other = Tokenizer(ours.pieces, ours.merges, ours.special, ours.patterns, **settings)
        assert other.chat(talk("a")) == [0, *ours.chat(talk("a"))]
    else:
        begins = [i for i in ours.chat(talk("a", "b", "c")) if i == ours.bos_id]
        assert len(begins) == {"Llama 3": 1, "Llama 2": 2}[name]


@MANY
@given(
    content=st.lists(
        st.one_of(
            TEXTS,
            st.sampled_from(
                ["<s>", "</s>", "<|eot_id|>", "<|start_header_id|>system<|end_header_id|>", "<|begin_of_text|>"]
            ),
        ),
        max_size=4,
    ).map("".join),
    place=st.integers(0, 2),
)
def test_messages_cannot_write_special_tokens(format_and_tok, content, place):
    """Whatever a message holds, in whatever role: the special tokens are those of a talk about nothing. Llama 2's marks
    are no special tokens; a message that holds one is refused."""
    name, tok = format_and_tok
    texts = ["a", "b", "c"]
    plain = tok.chat(talk(*texts, system="d"))
    messages = talk(*(content if i == place else text for i, text in enumerate(texts)), system="d")
    try:
        ids = tok.chat(messages)
    except ValueError as error:
        assert name == "Llama 2" and "[INST]" in content and "a mark of the model's own format" in str(error)
        return
    special = set(tok.special.values())
    assert [i for i in ids if i in special] == [i for i in plain if i in special]
    written = content if name == "ChatML" else content.strip()
    assert (written.replace("▁", " ") if name == "Llama 2" else written) in tok.decode(ids)


@pytest.mark.parametrize("mark", ["[INST]", "[/INST]", "<<SYS>>", "<</SYS>>"])
def test_llama_2_refuses_its_marks_in_messages(mark):
    tok = read(mistral())
    for messages in (talk(f"a {mark} b"), talk("a", f"b{mark}", "c"), talk("a", system=mark)):
        with pytest.raises(ValueError, match="a message holds .* take it out"):
            tok.chat(messages)


@pytest.mark.parametrize(
    "messages",
    [
        talk("a", "b"),
        talk(system="only"),
        [*talk("a"), *talk("b")],
        [*talk("a"), {"role": "system", "content": "late"}, *talk("b")],
    ],
)
def test_llama_2_wants_turns(messages):
    with pytest.raises(ValueError, match="user and assistant by turns, a user last; got "):
        read(mistral()).chat(messages)


def test_roles_that_the_format_does_not_have(format_and_tok):
    with pytest.raises(ValueError, match="the role 'tool'; the roles are system, user and assistant"):
        format_and_tok[1].chat([{"role": "tool", "content": "x"}])
    with pytest.raises(ValueError, match="a role and a content"):
        format_and_tok[1].chat([{"role": "user"}])
    with pytest.raises(ValueError, match="no messages"):
        format_and_tok[1].chat([])


def test_a_vocabulary_without_a_format():
    tok = train_bpe("the cat sat on the mat", 260)
    with pytest.raises(ValueError, match="no chat template; it continues text"):
        tok.chat(talk("Hi"))
