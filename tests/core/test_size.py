"""The core is small enough to read, and stays so."""

import ast
import io
import tokenize

from places import CORE, PACKAGE

LIMIT = 450


def code_lines(source: str) -> int:
    """Lines that hold code: no blank ones, no comments, no docstrings."""
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in skipped:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_counting() -> None:
    source = '"""Module."""\n\n# note\nx = (\n    1,  # one\n)\n\n\n'
    source += 'def f():\n    """Doc\n\n    more."""\n    return """a\nb"""\n'
    assert code_lines(source) == 3 + 1 + 2


def test_core_is_small() -> None:
    sizes = {name: code_lines((PACKAGE / f"{name}.py").read_text(encoding="utf-8")) for name in CORE}
    assert sum(sizes.values()) <= LIMIT, sizes
