"""A Jinja sandbox in which a template cannot run for long or need much memory.

Three rules work together:

1. Every round of a loop, every call and every filter is a step. Steps are counted, and at each the time is looked at.
2. No value is larger than `MAX_VALUE`. Each operation that makes a value is wrapped so that the value is measured; one
   that can make a value much larger than those it is given (such as `*`, `center` or `replace`) is refused in advance.
3. All values made in a rendering together are not larger than `MAX_MADE`.

By rule 2 an operation of Python that cannot be interrupted is short, and by rule 1 there is a look at the clock after a
few of them; so the time limit needs no signals and holds in every thread.
"""

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, MappingView
from functools import wraps
from typing import Any

from jinja2 import Template, nodes, pass_context, pass_eval_context
from jinja2.runtime import markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 50_000  # characters of a template; the longest known are about 30,000
MAX_STEPS = 250_000  # a conversation of 1,000 messages takes about 15,000
MAX_SECONDS = 1.0  # of this thread's CPU time, so that a busy machine changes nothing
MAX_VALUE = 4 * 2**20  # bytes of one value: a conversation of 131,072 tokens has about 0.5 MB
MAX_MADE = 64 * 2**20  # bytes
MAX_BITS = 4096  # of an integer
MAX_SQUARE = 10**9  # for filters whose time grows with the square of the length, or that need much memory

# These return at most about as much as they are given, whatever their other arguments are.
BOUNDED = frozenset(
    # methods of strings and numbers
    "split rsplit splitlines strip lstrip rstrip startswith endswith find rfind index rindex count partition "
    "rpartition removeprefix removesuffix encode decode maketrans fromhex from_bytes "
    # filters
    "abs attr capitalize count d default dictsort e escape filesizeformat first float forceescape groupby int items "
    "last length list lower map max min random reject rejectattr reverse safe select selectattr sort string "
    "tojson trim truncate unique upper urlencode wordcount xmlattr".split()
)
SQUARE = frozenset(["pprint", "striptags", "sum", "title", "urlize", "wordwrap"])
# A width taken from the arguments, as in "%*d" and "{:{}}", cannot be read from the format string.
WIDTH_ELSEWHERE = re.compile(r"%(\([^)]*\))?[-#0 +]*\d*\.?\*|\{[^{}]*\{")


class OverLimit(Exception):
    """A template went over a limit. Not a ValueError, which some filters catch."""


class Limits:
    """What a rendering has used so far."""

    def start(self) -> None:
        self.steps = self.made = 0
        self._wall, self._cpu = time.monotonic() + MAX_SECONDS, time.thread_time() + MAX_SECONDS

    def step(self, n: int = 1) -> None:
        self.steps += n
        if self.steps > MAX_STEPS:
            raise OverLimit(f"it takes more than {MAX_STEPS} steps")
        # The thread's CPU time is at most the time that passed, and takes longer to ask for.
        if time.monotonic() > self._wall and time.thread_time() > self._cpu:
            raise OverLimit(f"it takes more than {MAX_SECONDS:g} s")

    def make(self, size: int) -> None:
        self.made += size
        if self.made > MAX_MADE:
            raise OverLimit(f"it makes more than {MAX_MADE >> 20} MB of text and lists")

    def value(self, value: Any, new_items: bool = False) -> Any:
        """The value, measured. An iterator is measured item by item.

        new_items: the items of a container were made with it. They were made and counted earlier otherwise.
        """
        if isinstance(value, Iterator):
            return self._each(value)
        size = measure(value)
        if size > MAX_VALUE:
            raise OverLimit(f"it makes a value of more than {MAX_VALUE >> 20} MB")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise OverLimit(f"it computes with integers of more than {MAX_BITS} bits")
        self.make(size if new_items else _shallow(value))
        return value

    def _each(self, values: Iterator) -> Iterator:
        for value in values:
            self.step()
            yield self.value(value)

    def join(self, pieces: Iterable[str]) -> str:
        joined, size = [], 0
        for piece in pieces:
            self.step()
            size += len(piece)
            if size > MAX_VALUE:
                raise OverLimit(f"it writes more than {MAX_VALUE >> 20} MB")
            joined.append(piece)
        return self.value("".join(joined))

    def check(self, name: str, values: tuple, named: dict[str, Any]) -> None:
        """Refuse an operation that would make too large a value, or take long, before it is carried out."""
        if name in BOUNDED:
            return
        arguments = [*values, *named.values()]
        match name, values:
            case "replace", (str(text), str(old), str(new), *_) if not named:
                sizes = [len(text) + text.count(old) * len(new)]
            case "join", (_, _):  # the text between stands first in the method, second in the filter
                items, between = sorted(values, key=lambda value: isinstance(value, str))
                sizes = [measure(items) + len(items) * len(between)]
            case "format" | "format_map" | "%", (str(text), *_):
                if WIDTH_ELSEWHERE.search(text.replace("{{", "")):
                    raise OverLimit("it takes the width of a formatted value from another value")
                widths = [int(digits[:10]) for digits in re.findall(r"\d+", text)]
                sizes = [*map(_extent, arguments), *widths]
            case "round", _:
                sizes = [_extent(argument) ** 2 for argument in arguments[1:]]
            case _:
                sizes = [*map(_extent, arguments)]
        largest, second, *_ = [*sorted(sizes, reverse=True), 1, 1]
        if largest * max(second, 1) > MAX_VALUE:
            raise OverLimit(f"{name!r} could make a value of more than {MAX_VALUE >> 20} MB")
        if name in SQUARE and largest**2 > MAX_SQUARE:
            raise OverLimit(f"{name!r} would take too long on a value of this length")


def _shallow(value: Any) -> int:
    """Bytes, without those of the items."""
    if isinstance(value, Namespace):  # which hides its attributes
        value = object.__getattribute__(value, "_Namespace__attrs")
    return sys.getsizeof(value)


def measure(value: Any) -> int:
    """Bytes with all items, an item that is held twice counted twice; more than `MAX_VALUE` where it becomes that.

    So it bounds the work of all that walks through a value: to write, compare or hash it. The attributes of a namespace
    do not count: nothing walks through them.
    """
    size, open_values = 0, [value]
    while open_values and size <= MAX_VALUE:
        item = open_values.pop()
        size += _shallow(item)
        if isinstance(item, dict):
            open_values += item.keys()
            open_values += item.values()
        elif isinstance(item, list | tuple | set | frozenset | MappingView):
            open_values += item
        elif isinstance(item, range):
            size += 36 * len(item)
    return size


def _extent(value: Any) -> int:
    """How often something can be repeated by a value: a number that many times, a text once for each character."""
    if isinstance(value, int):
        return abs(value)
    return len(value) if isinstance(value, str | bytes) else measure(value)


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's own sandbox with the limits above. One environment renders one template, in one thread at a time."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "**", "%"])

    def __init__(self, **settings: Any) -> None:
        # Without optimisation nothing is computed while compiling, when nobody counts.
        super().__init__(optimized=False, **settings)
        self.limits = limits = Limits()
        for name, function in list(self.filters.items()):
            self.add_filter(name, function)

        # The names hold a space, so that no template can write them.
        @pass_context
        def step(context: Any, n: int) -> bool:
            limits.step()
            limits.make(n)
            return True

        @pass_context
        def value(context: Any, made: Any) -> Any:
            return limits.value(made)

        @pass_context
        def written(context: Any, made: Any) -> Any:
            """A value that is written is text from here on, and counted as such."""
            return limits.value(made if isinstance(made, str) or hasattr(made, "__html__") else str(made))

        @pass_eval_context
        def concatenated(eval_ctx: Any, values: list) -> str:
            size = 0
            for each in values:
                size += len(each) if isinstance(each, str) else 10 * measure(each)  # "\U0001F600" for one character
                if size > MAX_VALUE:
                    raise OverLimit(f"it makes a value of more than {MAX_VALUE >> 20} MB")
            return limits.value((markup_join if eval_ctx.autoescape else str_join)(values))

        self.filters |= {f"limits {f.__name__}": f for f in (step, value, written, concatenated)}

    def add_filter(self, name: str, function: Callable) -> None:
        """Register a filter, limited."""
        takes_context = hasattr(function, "jinja_pass_arg")

        @wraps(function)  # also the attribute that asks for the context
        def limited(*arguments: Any, **named: Any) -> Any:
            head, values = arguments[:takes_context], arguments[takes_context:]
            self.limits.step()
            if name not in BOUNDED:
                values = tuple(list(each) if isinstance(each, Iterator) else each for each in values)
                self.limits.check(name, values, named)
            return self.limits.value(function(*head, *values, **named), new_items=isinstance(values[0], str))

        self.filters[name] = limited

    def compile_limited(self, source: str) -> Template:
        """The template, with a call into the limits wherever it runs on or makes a value."""
        tree = Instrument().visit(self.parse(source))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def render_limited(self, template: Template, names: dict[str, Any]) -> str:
        """Raises OverLimit, or what the template raises."""
        self.limits.start()
        self.limits.value(names)
        return self.limits.join(template.generate(names))

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.limits.step()
        self.limits.make(48 * (len(args) + len(kwargs)))
        method = getattr(function, "__wrapped__", function)  # Jinja wraps str.format
        owner = getattr(method, "__self__", None)
        is_scalar = isinstance(owner, str | bytes | int | float)
        if is_scalar:
            args = tuple(list(each) if isinstance(each, Iterator) else each for each in args)
            self.limits.check(method.__name__, (owner, *args), kwargs)
        return self.limits.value(super().call(context, function, *args, **kwargs), new_items=is_scalar)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        self.limits.step()
        if isinstance(left, int) and isinstance(right, int):
            if operator == "**" and left.bit_length() * right > MAX_BITS:
                raise OverLimit(f"it computes with integers of more than {MAX_BITS} bits")
        elif operator == "*" and isinstance(left, int | float) and isinstance(right, int | float):
            pass
        elif operator in "*%" and not isinstance(left, float):
            self.limits.check(operator, (left, right), {})
        return self.limits.value(super().call_binop(context, operator, left, right))


class Instrument(NodeTransformer):
    """Puts the calls into the limits into a template's syntax tree, where Jinja has no hook of its own."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, _step(node))
        if node.test is not None:
            node.test = nodes.And(_filter("step", nodes.Const(0), node), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> list[nodes.Node]:
        self.generic_visit(node)
        is_data = [isinstance(child, nodes.TemplateData) for child in node.nodes]
        length = sum(len(child.data) for child, data in zip(node.nodes, is_data, strict=True) if data)
        node.nodes = [
            child if data else _filter("written", child, node) for child, data in zip(node.nodes, is_data, strict=True)
        ]
        return [_step(node, length), node]

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("concatenated", nodes.List(node.nodes, lineno=node.lineno), node)

    def visit_List(self, node: nodes.List | nodes.Dict) -> nodes.Node:
        return _filter("value", self.generic_visit(node), node)

    visit_Dict = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filter("value", node, node) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter("value", node, node) if isinstance(node.arg, nodes.Slice) else node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        self.generic_visit(node)
        if node.node is None:  # it filters a block, whose text was never measured as a whole
            node.node = _filter("value", None, node)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:
        self.generic_visit(node)
        node.filter = node.filter or _filter("value", None, node)
        return node


def _filter(name: str, child: nodes.Node | None, at: nodes.Node) -> nodes.Filter:
    return nodes.Filter(child, f"limits {name}", [], [], None, None, lineno=at.lineno)


def _step(at: nodes.Node, made: int = 0) -> nodes.Node:
    return nodes.ExprStmt(_filter("step", nodes.Const(made, lineno=at.lineno), at), lineno=at.lineno)
