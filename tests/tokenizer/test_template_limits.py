"""Templates that would run for long or need much memory are refused, in one sentence."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.tokenizer import load_tokenizer, template_limits
from llama_from_scratch.tokenizer.chat import fill_in
from llama_from_scratch.tokenizer.template_limits import MAX_SECONDS

MESSAGES = [{"role": "user", "content": "x"}]


def grow(start: str, step: str, rounds: int, end: str = "") -> str:
    """A template that sets x again and again."""
    return (
        f"{{% set ns = namespace(x={start}) %}}{{% for i in range({rounds}) %}}"
        f"{{% set ns.x = {step} %}}{{% endfor %}}{end}"
    )


HOSTILE = {
    # loops and calls
    "nested loops": "{% for a in range(999) %}{% for b in range(999) %}{% for c in range(999) %}" + "{% endfor %}" * 3,
    "loop that filters out all": "{% for a in range(9999) %}{% for b in range(9999) if 0 %}{% endfor %}{% endfor %}",
    "select that finds nothing": "{% for a in range(9999) %}{{ range(99999) | select('none') | list }}{% endfor %}",
    "sorting in a loop": "{% for a in range(9999) %}{% set x = range(9999) | sort %}{% endfor %}",
    "searching in a loop": "{% set x = ['a' * 999] * 3999 %}{% for a in range(99999) %}{{ 'b' in x }}{% endfor %}",
    "macro that calls itself": "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
    "macro that calls itself twice, to 40": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}"
    "{% endmacro %}{{ m(40) }}",
    "block that writes itself": "{% block a %}{{ self.a() }}{% endblock %}",
    "recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{{ loop([1]) }}{% endfor %}",
    "chain of generators": grow("range(99999)", "ns.x | select", 800, "{{ ns.x | list }}"),
    # one operation that makes much
    "text times number": "{{ 'x' * 10**8 }}",
    "number times text": "{{ 100000000 * 'x' }}",
    "list times number": "{{ [0] * 10**8 }}",
    "power": "{{ 9 ** 999999999 }}",
    "% with width": "{{ '%1000000000s' % 1 }}",
    "% with width elsewhere": "{{ '%*d' % (1000000000, 1) }}",
    "% with precision": "{{ '%.1000000000f' % 1 }}",
    "format with width": '{{ "{:>1000000000}".format("") }}',
    "format with width elsewhere": '{{ "{:>{}}".format("", "1000000000") }}',
    "format of a long format": "{{ ('{0}' * 99999).format('x' * 99999) }}",
    "format_map": "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "filter format": "{{ '%1000000000s' | format(1) }}",
    "filter center": "{{ 'x' | center(10**9) }}",
    "filter center, all constant": "{{ 'x' | center(1000000000) }}",
    "method ljust": "{{ ''.ljust(10**9) }}",
    "method zfill": "{{ '1'.zfill(10**9) }}",
    "method expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "method translate": "{{ ('x' * 99999).translate({120: 'y' * 99999}) }}",
    "method to_bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "filter join": "{{ range(9999) | join('x' * 99999) }}",
    "filter join of a generator": "{{ range(9999) | map('string') | join('x' * 99999) }}",
    "method join": "{{ ('x' * 99999).join('y' * 99999) }}",
    "method join of a generator": "{{ ('x' * 99999).join(range(9999) | map('string')) }}",
    "filter replace": "{{ ('x' * 99999) | replace('', 'y' * 99999) }}",
    "method replace": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "filter indent": "{{ ('\n' * 99999) | indent(10**6, blank=true) }}",
    "filter wordwrap": "{{ ('x' * 4000000) | wordwrap(1) }}",
    "filter wordwrap of 40,000 characters": "{{ ('x ' * 20000) | wordwrap(9) }}",
    "filter striptags": "{{ ('<!---->' * 500000) | striptags }}",
    "filter urlize": "{{ ('http://a.b' ~ '(' * 1000000 ~ ')' * 1000000) | urlize }}",
    "filter batch": "{{ 'x' | batch(10**9, 'y') | list }}",
    "filter slice": "{{ 'x' | slice(10**9) | list }}",
    "filter round": "{{ 1.5 | round(10**9, 'ceil') }}",
    "filter sum of lists": "{{ ([[1]] * 40000) | sum(start=[]) }}",
    "filter tojson with indent": "{{ messages | tojson(indent=10**9) }}",
    "filter tojson with separators": "{{ range(9999) | list | tojson(separators=('x' * 99999, ':')) }}",
    "filter list of a long text": "{{ ('\U0001f600' * 900000) | list | length }}",
    "filter title": "{{ ('ab ' * 1000000) | title }}",
    "method split": "{{ ('ж,' * 900000).split(',') | length }}",
    "strftime_now": "{{ strftime_now('%1000000d' * 99999) }}",
    # growth
    "text doubled with ~": grow("'x'", "ns.x ~ ns.x", 99),
    "text doubled with +": grow("'x'", "ns.x + ns.x", 99),
    "text doubled in a block": "{% set ns = namespace(x='xx') %}{% for i in range(99) %}"
    "{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}{% endfor %}",
    "list doubled": grow("[1]", "ns.x + ns.x", 99),
    "list grown by one": grow("[]", "ns.x + [i]", 99_999),
    "number squared": grow("9", "ns.x * ns.x", 99),
    "lists in lists": grow("[1]", "[ns.x, ns.x]", 40, "{{ ns.x }}"),
    "tuples in tuples as a key": grow("(1,)", "(ns.x, ns.x)", 40, "{{ {ns.x: 1} }}"),
    "dictionaries in dictionaries": grow("{}", "dict(a=ns.x, b=ns.x)", 40, "{{ ns.x | tojson }}"),
    "namespaces of a large dictionary": "{% set d = dict.fromkeys(range(9999)) %}"
    + grow("[]", "ns.x + [namespace(d)]", 9999),
    "cyclers": grow("[]", "ns.x + [cycler(*range(9999))]", 9999),
    "many values": "{% set x = 'x' * 4000000 %}" + "".join(f"{{% set a{i} = x[1:] %}}" for i in range(999)),
    "one ~ of many": "{% set x = 'x' * 4000000 %}{{ " + " ~ ".join("x" * 999) + " }}",
    # output
    "text written in a loop": "{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}",
    "value written in a loop": "{% set x = 'x' * 1000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "text written in a macro": "{% macro m() %}{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}"
    "{% endmacro %}{% set x = m() %}",
    "text written in a filter": "{% filter upper %}{% for i in range(99999) %}" + "x" * 5000 + "{% endfor %}"
    "{% endfilter %}",
    "text escaped in a loop": "{% autoescape true %}{% set x = '&' * 900000 %}{% for i in range(999) %}{{ x }}"
    "{% endfor %}{% endautoescape %}",
    # source
    "long source": "{{ 1 }}" * 10_000,
    "deep source": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep loops": "{% for i in [1] %}" * 50 + "{% endfor %}" * 50,
}


def refused(template: str) -> str:
    with pytest.raises(ValueError) as error:
        fill_in(template, MESSAGES, [], {})
    return str(error.value)


@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_hostile_template_is_refused_within_two_seconds(template):
    """Of CPU time: on a busy machine more time passes, which no program can help."""
    start = time.thread_time()
    message = refused(template)
    assert time.thread_time() - start < 2
    assert message.startswith("the model's chat template cannot be used on these messages (") and "\n" not in message
    assert "too much memory" not in message  # which Python says when it is too late


MEASURE = """
import sys
from test_template_limits import HOSTILE, MESSAGES
from llama_from_scratch.tokenizer.chat import fill_in

def kilobytes(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key))

fill_in("{{ 1 }}", MESSAGES, [], {})
for name, template in HOSTILE.items():
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins again
    before = kilobytes("VmRSS")
    try:
        fill_in(template, MESSAGES, [], {})
    except ValueError:
        pass
    print(name, (kilobytes("VmHWM") - before) // 1024, sep="\\t")
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells and resets a process's peak")
def test_hostile_templates_need_at_most_200_mb():
    here = [Path(__file__).parent, *map(Path, sys.path)]
    path = ":".join(map(str, here))
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, env={"PYTHONPATH": path, "PATH": ""}
    )
    assert ran.returncode == 0, ran.stderr
    peaks = {name: int(megabytes) for name, megabytes in (line.split("\t") for line in ran.stdout.splitlines())}
    assert peaks.keys() == HOSTILE.keys()
    assert max(peaks.values()) > 10  # it was measured
    assert {name: peak for name, peak in peaks.items() if peak > 200} == {}


@pytest.fixture
def few_steps(monkeypatch) -> int:
    """A lower limit: the type checks of the tests make each step slow, and the time limit would come first."""
    monkeypatch.setattr(template_limits, "MAX_STEPS", 3000)
    return 3000


def test_steps_are_counted_exactly(few_steps):
    """A round of a loop is a step, and so is the call of `range`."""
    template = "{{% for i in range({}) %}}{{% endfor %}}"
    assert fill_in(template.format(few_steps - 1), MESSAGES, [], {}) == []
    assert f"it takes more than {few_steps} steps" in refused(template.format(few_steps))


def test_limits_begin_again_with_each_rendering(few_steps):
    """A conversation with special tokens is rendered twice, and a template is used many times."""
    template = f"{{% for i in range({few_steps - 10}) %}}{{% endfor %}}{{{{ messages[0].content }}}}<s>"
    for _ in range(2):
        assert fill_in(template, [{"role": "user", "content": "<s>"}], ["<s>"], {}) == ["<s>", "<s>"]


def test_limits_hold_in_other_threads(few_steps):
    said = {}
    templates = {
        f"more than {few_steps} steps": HOSTILE["nested loops"],
        "'*' could make": HOSTILE["text times number"],
        f"more than {MAX_SECONDS:g} s": HOSTILE["select that finds nothing"],
    }
    threads = [
        threading.Thread(target=lambda reason=reason, template=template: said.update({reason: refused(template)}))
        for reason, template in templates.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said.keys() == templates.keys() and all(reason in message for reason, message in said.items())


def test_long_conversation_is_within_limits():
    """Twice the context of Llama 3.1 in characters, and more messages than anyone has written."""
    tok = load_tokenizer(EMBEDDED)
    messages = [{"role": ("user", "assistant")[i % 2], "content": "word " * 200} for i in range(1001)]
    text = "".join(fill_in(tok.chat_template, messages, tok.special, tok.special_names))
    assert len(text) > 1_000_000 and text.count("<|im_end|>") == 1002
