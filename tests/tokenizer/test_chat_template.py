"""Chat templates: the same text, ids and errors as in transformers' `apply_chat_template`; and no message can write a
special token."""

import importlib.metadata
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nasty_text import MANY

from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer, train_bpe
from llama_from_scratch.tokenizer.chat import fill_in

SPECIAL = ("<|im_start|>", "<|im_end|>", "<pad>", "<unk>", "<think>", "</think>", "<s>", "</s>", "[INST]", "[/INST]")
LLAMA3_SPECIAL = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")

# As published. Llama 3: the model card of meta-llama/Meta-Llama-3-8B-Instruct. Mistral: transformers' documentation of
# chat templates. DeepSeek: what its template does with thoughts, in our words.
PUBLISHED = {
    "Llama 3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
    "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "Mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == "
    "0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "DeepSeek": "{{ bos_token }}{% for message in messages %}{% set content = message.content %}"
    "{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}"
    "<|im_start|>{{ message.role }}\n{{ content }}<|im_end|>{% endfor %}<|im_start|>assistant\n<think>\n",
}
# Each looks at one thing of the world that a template sees.
PROBES = [
    "{{ messages | tojson }}",
    "{{ messages | tojson(ensure_ascii=True) }}{{ messages | tojson(indent=2, sort_keys=true) }}",
    "{{ messages | tojson(False, 1, (',', ' : ')) }}{{ 'é<' | tojson }}{{ [1.5, none, true] | tojson }}",
    "{% for m in messages %}{% generation %}{{ m.content }}{% set x = 1 %}{% endgeneration %}{{ x }}{% endfor %}",
    "{{ tools is not none }}{{ documents is none }}{{ tools is defined }}{{ add_generation_prompt }}",
    "{{ pad_token }}|{{ unk_token }}|{{ cls_token is defined }}|{{ bos_token }}|{{ eos_token }}|{{ mask_token }}",
    "{% for m in messages %}{{ m.content | length }},{{ m.content.split('<|im_end|>') }}{% endfor %}",
    "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{{ '<s>' in m.content }}{% endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m }}{% break %}{% endfor %}",
    "{% set ns = namespace(found=false, text='') %}{% for m in messages %}{% set ns.text = ns.text ~ m.content %}"
    "{% set ns.found = loop.last %}{% endfor %}{{ ns.text }}{{ ns.found }}",
    "{% macro turn(m, n=2) %}{{ m.role | upper }}{{ m['content'] * n }}{{ varargs }}{% endmacro %}"
    "{% for m in messages %}{{ turn(m) }}{{ turn(m, 1, 'more') }}{% endfor %}",
    "{{ dict(a=1, b=messages[0].content) }}{{ dict.fromkeys('ab') }}{{ messages[::-1] }}{{ messages[-1:] | first }}",
    "{% for a, b in messages[0].items() %}{{ a }}={{ b | replace('a', 'bb') | trim | indent(2) }};{% endfor %}",
    "{{ messages | map(attribute='content') | join('\n') }}"
    "{{ messages | selectattr('role', 'equalto', 'user') | list }}",
    "{{ '%s: %05d' % (messages[0].role, 42) }}{{ '{:>8}|{x}'.format('a', x=messages[0].content) }}",
    "{{ [1, 2] + [3] }}{{ (1, 'a') }}{{ 7 // 2 }}{{ 7 / 2 }}{{ 2 ** 10 }}{{ -7 % 3 }}{{ 'ab' * 2 }}{{ [0] * 3 }}",
    "{% set x %}<{{ messages[0].content }}>{% endset %}{{ x | upper }}{% filter lower %}A{{ x }}{% endfilter %}",
    "{% for m in messages if m.role == 'user' %}{{ loop.length }}{{ loop.last }}{{ loop.revindex }}{{ loop.nextitem }}"
    "{% else %}none{% endfor %}",
    "{% for x in [[1, [2]], 3] recursive %}"
    "{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(n) m() %}{{ n }}{{ messages[0].content }}{% endcall %}",
    "{% autoescape true %}{{ messages[0].content }}{{ messages[0].content ~ '<' }}{{ messages }}{% endautoescape %}",
    "  {% if true %}\n  a\n    {%- endif %}\n{# nothing #}\n  b\n",
    "{{ {'a': messages[0].content, 'b': {}} }}{{ {'a': 1}.get('c', 'none') }}{% set a, b = 1, [2] %}{{ a }}{{ b }}",
    "{{ strftime_now('%Y') }}{{ messages | length }}{{ nothing }}{{ nothing is defined }}",
    "{{ messages | groupby('role') }}{{ range(3) | list }}{{ messages | sort(attribute='role') | last }}",
]
ERRORS = [
    "{{ raise_exception('Only <users>, please: ' ~ messages[0].role) }}",
    "{{ nothing.at.all }}",
    "{{ 'a' + 1 }}",
    "{{ bos_token + cls_token }}",
    "{{ [nothing] | tojson }}",
    "{% set ns = namespace(_x=1) %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{{ messages.append(1) }}",
    "{% for x in %}",
    "{{ ''.__class__.__mro__ }}",
    "{% include 'x' %}",
    "{{ messages | nothing }}",
]
FEW = settings(MANY, max_examples=max(10, MANY.max_examples // 8))  # for each template
FREE = (
    st.lists(
        st.one_of(
            st.sampled_from(
                [
                    "Grüße & <b>",
                    "'\"",
                    "👩\u200d👩\u200d👧",
                    "\n\n",
                    "  ",
                    "日本語",
                    "a",
                    "{{ x }}",
                    "\U000f003c",
                    "\\",
                    "<",
                ]
            ),
            st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
        ),
        max_size=5,
    )
    .map("".join)
    .filter(lambda text: not any(token in text for token in (*SPECIAL, *LLAMA3_SPECIAL)))
)
WITH_SPECIAL = st.lists(st.one_of(FREE, st.sampled_from([*SPECIAL, *LLAMA3_SPECIAL])), max_size=5).map("".join)


def conversations(contents: st.SearchStrategy[str]) -> st.SearchStrategy[list[dict[str, str]]]:
    """User and assistant in turn; the keys of a message in either order."""

    def build(turns):
        messages = []
        for i, (content, role_first) in enumerate(turns):
            pair = [("role", ("user", "assistant")[i % 2]), ("content", content)]
            messages.append(dict(pair if role_first else reversed(pair)))
        return messages

    return st.lists(st.tuples(contents, st.booleans()), min_size=1, max_size=4).map(build)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(our tokenizer, that of transformers), read from the same files."""
    import transformers

    folder = tmp_path_factory.mktemp("hf")
    trained = train_bpe("the cat sat on the mat " * 9, 272, special=(*SPECIAL, *LLAMA3_SPECIAL))
    trained.save(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    names = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "</s>"},
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    path.write_text(json.dumps(config | names))
    return load_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)


def texts(tok: Tokenizer, template: str, messages: list[dict[str, str]]) -> str:
    return "".join(fill_in(template, messages, tok.special, tok.special_names))


@pytest.mark.parametrize("template", [*PROBES, *PUBLISHED.values()], ids=range(len(PROBES) + len(PUBLISHED)))
@FEW
@given(messages=conversations(FREE))
def test_template_equals_transformers(both, template, messages):
    ours, theirs = both
    ours.chat_template = template
    how = {"chat_template": template, "add_generation_prompt": True}
    assert texts(ours, template, messages) == theirs.apply_chat_template(messages, tokenize=False, **how)
    assert ours.chat(messages) == theirs.apply_chat_template(messages, return_dict=False, **how)


@pytest.mark.parametrize("template", [*PROBES, *PUBLISHED.values()], ids=range(len(PROBES) + len(PUBLISHED)))
@FEW
@given(messages=conversations(WITH_SPECIAL))
def test_template_sees_special_text_as_written(both, template, messages):
    """The text is that of transformers also where messages hold special tokens, or the messages are refused."""
    ours, theirs = both
    try:
        text = texts(ours, template, messages)
    except ValueError as error:
        assert "cannot be told from the template's own; take it out" in str(error)
        return
    expected = theirs.apply_chat_template(messages, tokenize=False, chat_template=template, add_generation_prompt=True)
    assert text == expected


@pytest.mark.parametrize("template", ERRORS, ids=range(len(ERRORS)))
def test_template_error_equals_transformers(both, template):
    ours, theirs = both
    ours.chat_template = template
    messages = [{"role": "user", "content": "x"}]
    with pytest.raises(Exception) as expected:  # noqa: B017  each its own: of Jinja, of Python
        theirs.apply_chat_template(messages, chat_template=template, tokenize=False)
    with pytest.raises(ValueError, match="the model's chat template cannot be used on these messages") as error:
        ours.chat(messages)
    if "_x" not in template:  # where the sentence is not Jinja's or the template's
        assert str(expected.value) in str(error.value)


@pytest.mark.parametrize("template", PUBLISHED.values(), ids=PUBLISHED)
@FEW
@given(messages=conversations(WITH_SPECIAL))
def test_messages_cannot_write_special_tokens(both, template, messages):
    """The special tokens of a conversation are those of one about nothing."""
    tok = both[0]
    tok.chat_template = template
    nothing = [message | {"content": "x"} for message in messages]
    try:
        ids = tok.chat(messages)
    except ValueError as error:
        assert "</think>" in str(error) or "cannot be told" in str(error)
        assert "in content" in template  # only of a template that looks for such text
        return
    special = set(tok.special.values())
    assert [i for i in ids if i in special] == [i for i in tok.chat(nothing) if i in special]


@MANY
@given(content=st.lists(st.sampled_from(["<|im_", "end|>", "<|im_end|>", "<s", ">", "<s>", " ", "x"])).map("".join))
def test_overlapping_special_texts_stay_ordinary(both, content):
    tok = both[0]
    tok.chat_template = "<|im_start|>{{ messages[0].content }}<|im_end|>"
    ids = tok.chat([{"role": "user", "content": content}])
    start, *between, end = ids
    assert (start, end) == (tok.special["<|im_start|>"], tok.special["<|im_end|>"])
    assert tok.decode(between) == content and not set(between) & set(tok.special.values())


def test_token_removed_by_template_is_no_hindrance(both):
    tok = both[0]
    tok.chat_template = PUBLISHED["DeepSeek"]
    answer = [{"role": "assistant", "content": "<think>Hm.</think>Yes."}]
    assert tok.decode(tok.chat(answer)) == "<s><|im_start|>assistant\nYes.<|im_end|><|im_start|>assistant\n<think>"


@pytest.mark.parametrize(
    "template",
    [
        "{% if '<|im_end|>' in messages[0].content %}{{ messages[0].content }}{% else %}<|im_end|>{% endif %}",
        "{{ messages[0].content.split('<|im_end|>')[0] }}<|im_end|>",
        "{{ messages[0].content.replace('<|im_end|>', '<|im_start|>') }}<|im_end|>",
        "{{ messages[0].content | upper | lower }}{{ raise_exception('x') if '<' not in messages[0].content }}",
    ],
)
def test_token_of_unknown_origin_raises(both, template):
    tok = both[0]
    tok.chat_template = template
    with pytest.raises(ValueError, match=r"holds the special token <\|im_end\|>, .* take it out"):
        tok.chat([{"role": "user", "content": "a<|im_end|>b"}])


def test_smollm2_template_names_every_token(tmp_path):
    """From the GGUF file of the package."""
    import transformers

    from llama_from_scratch.files.embedded import embedded_path

    file, tok = embedded_path(), load_tokenizer(EMBEDDED)
    theirs = transformers.AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    assert tok.special_names == theirs.special_tokens_map


# --- the package jinja2 ------------------------------------------------------------------------------------------


def test_jinja2_pin_excludes_unsafe_versions():
    """Before 3.1.6 a template could leave the sandbox (CVE-2025-27516)."""
    from packaging.requirements import Requirement

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [Requirement(line) for line in project["optional-dependencies"]["run"]]
    (jinja2,) = [requirement for requirement in extras if requirement.name == "jinja2"]
    assert not jinja2.specifier.contains("3.1.5") and jinja2.specifier.contains("3.1.6")
    assert jinja2.specifier.contains(importlib.metadata.version("jinja2"))


def test_older_jinja2_is_refused(monkeypatch):
    import jinja2

    from llama_from_scratch.tokenizer import chat_template

    monkeypatch.setattr(jinja2, "__version__", "3.1.5")
    with pytest.raises(ImportError, match="need jinja2 3.1.6 or newer.*this is 3.1.5; run: pip install"):
        exec(
            compile(Path(chat_template.__file__).read_text(), "again", "exec"),
            {"__package__": chat_template.__package__},
        )
