"""The commands: what they print, what they do in a terminal and a pipe, and their error messages."""

import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from importlib.metadata import entry_points

import pytest
import torch
from commands import COMMAND, hear_ctrl_c, in_process
from places import SUPPORT

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.cli import chat, main, options, train
from llama_from_scratch.cli.chat import Conversation
from llama_from_scratch.files.embedded import EMBEDDED
from llama_from_scratch.generation import Sampling, evaluate, generate, generate_samples
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer

PROMPT = "The capital of France is"
ASCII = str(SUPPORT / "tiny.py")  # any text that the embedded model can spell


def on_terminal() -> None:
    """For a new process: the pseudo-terminal on its standard input is the one that sends it Ctrl-C."""
    hear_ctrl_c()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@pytest.fixture(scope="module")
def tok():
    return load_tokenizer(EMBEDDED)


@pytest.fixture
def loaded(monkeypatch, smollm2, tok):
    """In-process calls share one model."""
    monkeypatch.setattr(options, "load", lambda _: (smollm2, tok))


# --- the commands, as they are typed -----------------------------------------------------------------------------


def test_generate_prints_the_tokens_of_transformers(hf_smollm2, tok):
    done = in_process(["generate", PROMPT, "--max-new-tokens", "20", "--temperature", "0", "--tokens"])
    ids = tok.encode(PROMPT)
    expected = hf_smollm2.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=20, do_sample=False, pad_token_id=0
    )[0].tolist()
    new = expected[len(ids) :]
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        tok.decode(expected) + f"\nprompt tokens: {' '.join(map(str, ids))}\nnew tokens: {' '.join(map(str, new))}\n"
    )


def test_installed_command_is_main():
    (script,) = entry_points(group="console_scripts", name="llama-from-scratch")
    assert script.load() is main


def test_generate_streams_and_ctrl_c_exits_130():
    """The text is written as it is generated; Ctrl-C exits with 130 and no traceback."""
    process = subprocess.Popen(
        [*COMMAND, "generate", "Once upon a time", "--max-new-tokens", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_ctrl_c,
    )
    text = b""
    while len(text) < len("Once upon a time") + 10:
        text += os.read(process.stdout.fileno(), 100)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip() == b""


def test_generate_with_a_closed_pipe_exits_141():
    """`… | head -1` ends the command quietly."""
    process = subprocess.Popen(
        [*COMMAND, "generate", "One\nTwo\n", "--max-new-tokens", "5000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"One\n"
    process.stdout.close()
    assert process.wait(timeout=120) == 141
    assert process.stderr.read() == b""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_chat_on_a_terminal_handles_ctrl_c_and_ctrl_d():
    """Ctrl-C stops an answer and keeps it, Ctrl-D leaves; prompts and the loading message are shown."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "chat", "--max-new-tokens", "3000", "--temperature", "0"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm"},
        start_new_session=True,
        preexec_fn=on_terminal,
    )
    os.close(follower)

    def read_until(pattern: str) -> str:
        seen, end = "", time.monotonic() + 120
        while not re.search(pattern, seen):
            assert time.monotonic() < end, f"waited for {pattern!r} and saw {seen!r}"
            if select.select([leader], [], [], 0.5)[0]:
                seen += os.read(leader, 4096).decode(errors="replace")
        return seen

    assert f"Loading {EMBEDDED}" in read_until(r"you: $")
    os.write(leader, b"Write a long story about the sea.\n")
    read_until(r"sea\.\r\n.{10}")
    os.write(leader, b"\x03")
    assert "[stopped]" in read_until(r"you: $")
    os.write(leader, b"\x04")
    assert process.wait(timeout=60) == 0
    os.close(leader)


# --- generate ----------------------------------------------------------------------------------------------------


def test_generate_prompt_from_file_and_stdin_is_equal(loaded, capsys, tmp_path, monkeypatch):
    assert main(["generate", PROMPT, "--max-new-tokens", "3"]) == 0
    expected = capsys.readouterr().out
    file = tmp_path / "prompt.txt"
    for ending in ("", "\n", "\r\n"):
        file.write_bytes(PROMPT.encode() + ending.encode())
        assert main(["generate", "--file", str(file), "--max-new-tokens", "3"]) == 0
        assert capsys.readouterr().out == expected
        with file.open() as stdin:
            monkeypatch.setattr(sys, "stdin", stdin)
            assert main(["generate", "--file", "-", "--max-new-tokens", "3"]) == 0
        assert capsys.readouterr().out == expected


def test_generate_seed_repeats_and_verbose_shows_speed(loaded, capsys):
    command = ["generate", PROMPT, "--max-new-tokens", "8", "--temperature", "1.5", "--verbose"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main([*command, "--seed", seed]) == 0
        shown = capsys.readouterr()
        texts.append(shown.out)
        assert re.fullmatch(r"5 tokens of prompt and the first new one in .* s(; .* tokens a second)?\n", shown.err)
    assert texts[0] == texts[1] != texts[2]


def test_generate_samples_equal_generate_samples(loaded, capsys, smollm2, tok):
    command = ["generate", PROMPT, "--max-new-tokens", "5", "--temperature", "1.5", "--seed", "3", "--samples", "2"]
    assert main([*command, "--tokens"]) == 0
    rows = generate_samples(smollm2, tok.encode(PROMPT), 2, 5, Sampling(1.5, seed=3), tok.stop_ids)
    expected = "".join(f"--- sample {i} of 2\n{PROMPT}{tok.decode(row)}\n" for i, row in enumerate(rows, start=1))
    expected += f"prompt tokens: {' '.join(map(str, tok.encode(PROMPT)))}\n"
    assert capsys.readouterr().out == expected + "".join(f"new tokens: {' '.join(map(str, row))}\n" for row in rows)


def test_generate_samples_interrupted_are_written(monkeypatch, capsys, short_model, tok):
    monkeypatch.setattr(options, "load", lambda _: (short_model, tok))
    passes = []

    def interrupt(*_):
        passes.append(1)
        if len(passes) == 5:  # the prompt, three tokens, and in the middle of the fourth
            raise KeyboardInterrupt

    hook = short_model.norm.register_forward_hook(interrupt)
    try:
        assert (
            main(["generate", PROMPT, "--max-new-tokens", "20", "--temperature", "1", "--seed", "1", "--samples", "2"])
            == 130
        )
    finally:
        hook.remove()
    rows = generate_samples(short_model, tok.encode(PROMPT), 2, 3, Sampling(1.0, seed=1), tok.stop_ids)
    expected = "".join(f"--- sample {i} of 2\n{PROMPT}{tok.decode(row)}\n" for i, row in enumerate(rows, start=1))
    assert capsys.readouterr().out == expected


def test_generate_speculative_writes_the_same_text(monkeypatch, capsys, short_model, tok):
    monkeypatch.setattr(options, "load", lambda _: (short_model, tok))
    monkeypatch.setattr(options, "load_draft", lambda arguments, tokenizer: short_model)
    command = ["generate", "one two one two one", "--max-new-tokens", "12"]
    assert main(command) == 0
    expected = capsys.readouterr().out
    for extra in (["--prompt-lookup"], ["--prompt-lookup", "--guesses", "2"], ["--draft", "the same"]):
        assert main([*command, *extra, "--verbose"]) == 0
        shown = capsys.readouterr()
        assert shown.out == expected
        assert re.search(r"\n\d+ passes of the model; \d+ of \d+ guesses accepted \(\d+%\)\n$", shown.err)
    assert "(100%)" in shown.err  # the model is its own draft


def test_generate_draft_with_another_vocabulary_is_refused(loaded, capsys, monkeypatch, tok):
    monkeypatch.setattr(options, "load_tokenizer", lambda _: Tokenizer([b"a", b"b"], {}, {}, []))
    message = "--draft other and --model SmolLM2-135M-Instruct have different vocabularies"
    fails_with(capsys, ["generate", "x", "--draft", "other"], message)


def test_generate_repetition_penalty_at_temperature_0(monkeypatch, capsys, short_model, tok):
    monkeypatch.setattr(options, "load", lambda _: (short_model, tok))
    texts = []
    for penalty in (1.0, 0.01):  # what was said is liked
        assert main(["generate", PROMPT, "--max-new-tokens", "20", "--repetition-penalty", str(penalty)]) == 0
        texts.append(capsys.readouterr().out)
        ids = generate(short_model, tok.encode(PROMPT), 20, Sampling(repetition_penalty=penalty), tok.stop_ids)
        assert texts[-1] == PROMPT + tok.decode(list(ids)) + "\n"
    assert texts[0] != texts[1]


def test_write_control_characters_are_shown_on_terminals(monkeypatch, capsys):
    from llama_from_scratch.cli.terminal import write

    write("a\x1b[31mb\x07\x9bc\n\t")
    assert capsys.readouterr().out == "a\x1b[31mb\x07\x9bc\n\t"  # a pipe gets what the model wrote
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    write("a\x1b[31mb\x07\x9bc\n\t")
    assert capsys.readouterr().out == "a␛[31mb␇\ufffdc\n\t"
    write("p", faint=True)
    assert capsys.readouterr().out == "\x1b[2mp\x1b[22m"
    for name, value in {"TERM": "dumb", "NO_COLOR": "1"}.items():
        with monkeypatch.context() as plain:
            plain.setenv(name, value)
            write("p", faint=True)
        assert capsys.readouterr().out == "p"


# --- mistakes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
        (["generate"], "give the text to continue"),
        (["generate", "a", "--file", "b"], "give the text to continue"),
        (["generate", "--file", "/no/such/file"], "/no/such/file: No such file"),
        (["generate", "--file", "/"], "/: Is a directory"),
        (["generate", ""], "the prompt is empty"),
        (["generate", "a\x04"], "cannot spell"),
        (["generate", "a\udcff"], "what was typed is not text in UTF-8 (byte 1 is 0xFF)"),
        (["generate", "x", "--max-new-tokens", "0"], "max_new_tokens is 0"),
        (["generate", "x", "--max-new-tokens", "many"], "it must be a whole number"),
        (["generate", "x", "--max-new-tokens", "8192"], "ask for at most 8191"),
        (["generate", "x " * 9000], "the model's context is 8192"),
        (["generate", "x", "--temperature", "-1"], "temperature is -1.0; it must be 0"),
        (["generate", "x", "--temperature", "nan"], "temperature is nan"),
        (["generate", "x", "--temperature", "1e-40"], "temperature is 1e-40"),
        (["generate", "x", "--top-k", "5"], "--top-k changes nothing at temperature 0"),
        (["generate", "x", "--seed", "5"], "--seed changes nothing at temperature 0"),
        (["generate", "x", "--temperature", "1", "--top-k", "0"], "top_k is 0"),
        (["generate", "x", "--temperature", "1", "--top-k", "50000"], "this model has only 49152"),
        (["generate", "x", "--temperature", "1", "--top-p", "2"], "top_p is 2.0"),
        (["generate", "x", "--temperature", "1", "--min-p", "-1"], "min_p is -1.0"),
        (["generate", "x", "--temperature", "1", "--seed", "-1"], "seed is -1"),
        (["generate", "x", "--repetition-penalty", "0"], "repetition_penalty is 0.0; it must be above 0"),
        (["generate", "x", "--samples", "2"], "at temperature 0 all samples are the same text; add --temperature"),
        (["generate", "x", "--samples", "0"], "the number of samples is 0"),
        (["generate", "x", "--temperature", "1", "--samples", "2", "--prompt-lookup"], "leave one of them out"),
        (["generate", "x", "--guesses", "2"], "--guesses is for speculative decoding; add --prompt-lookup"),
        (["generate", "x", "--prompt-lookup", "--guesses", "0"], "n_guesses is 0"),
        (["generate", "x", "--prompt-lookup", "--draft", "y"], "not allowed with argument"),
        (["evaluate", "/no/such/file"], "/no/such/file: No such file"),
        (["evaluate", ASCII, "--window", "8193"], "the window is 8193; it must be from 1 to 8192, the context"),
        (
            ["evaluate", ASCII, "--window", "10", "--stride", "11"],
            "the stride is 11; it must be from 1 to the window",
        ),
        (["evaluate", ASCII, "--max-tokens", "1"], "--max-tokens is 1; it must be at least 2"),
        (["chat", "x", "--temperature", "0", "--top-p", "0.5"], "--top-p changes nothing"),
        (["chat", "x", "--max-new-tokens", "8192"], "ask for at most"),
        (["chat", "\x04"], "cannot spell"),
        (["chat", " "], "the question is empty"),
    ],
)
def test_mistakes_are_one_error_line(loaded, capsys, arguments, message):
    fails_with(capsys, arguments, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "x", "--model", "nope"], "there is no model 'nope'"),
        (["generate", "x", "--model", "Llama-3-8B"], "preset, sizes without weights"),
        (["generate", "x", "--model", "weights.pth"], "pickle"),
        (["generate", "x", "--device", "toaster"], "must be cpu, cuda, cuda:N or mps"),
        (["generate", "x", "--device", "cpu:1"], "must be cpu, cuda, cuda:N or mps"),
        (["generate", "x", "--device", "cuda:99"], "--device is cuda:99, and PyTorch sees"),
        (["generate", "x", "--dtype", "int8"], "invalid choice: 'int8'"),
        (["generate", "x", "--threads", "0"], "--threads is 0; it must be from 1 to"),
        (["generate", "x", "--threads", "100000"], "--threads is 100000; it must be from 1 to"),
        (["inspect", "nope"], "there is no model 'nope'"),
        (["inspect", __file__], "neither a GGUF nor a .safetensors file"),
    ],
)
def test_mistakes_are_reported_before_loading(capsys, arguments, message):
    fails_with(capsys, arguments, message)


def fails_with(capsys, arguments, message):
    try:
        code = main(arguments)
    except SystemExit as end:  # argparse's way
        code = end.code
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert shown.err.startswith("error: ") and shown.err.count("\n") == 1 and message in shown.err


def test_file_that_is_not_utf8_is_refused(loaded, capsys, tmp_path):
    (tmp_path / "image").write_bytes(b"ab\xff\xfe")
    fails_with(capsys, ["generate", "--file", str(tmp_path / "image")], "not text in UTF-8 (byte 2 is 0xFF)")
    fails_with(capsys, ["evaluate", str(tmp_path / "image")], "not text in UTF-8 (byte 2 is 0xFF)")


def test_evaluate_too_short_a_text_is_refused(loaded, capsys, tmp_path):
    (tmp_path / "empty").touch()
    fails_with(capsys, ["evaluate", str(tmp_path / "empty")], "empty is empty; give a text to predict")
    (tmp_path / "short").write_text("a")
    fails_with(capsys, ["evaluate", str(tmp_path / "short")], "the text has 1 tokens; at least 2 are needed")


def test_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "regex", None)
    fails_with(capsys, ["generate", "x"], "pip install regex")


def test_out_of_memory_is_one_error_line(capsys, monkeypatch):
    def load(_):
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(options, "load", load)
    fails_with(capsys, ["generate", "x"], "there is not enough memory; --dtype bfloat16 halves it")


def test_train_out_of_memory_advises_a_smaller_batch(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "begin", lambda *_: torch.empty(2**60, dtype=torch.uint8))
    fails_with(capsys, ["train", __file__, "--out", str(tmp_path / "run")], "not enough memory; lower --batch-size")


@pytest.mark.parametrize("command", ["generate", "chat", "evaluate", "convert", "inspect"])
def test_help_examples_parse(capsys, command):
    """Every example in the help is one that the parser takes."""
    from llama_from_scratch.cli.main import PROGRAM, parser

    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    examples = [line.split(PROGRAM, 1)[1] for line in text.splitlines() if line.startswith("    ") and PROGRAM in line]
    assert len(examples) >= 2
    for example in examples:
        import shlex

        parser().parse_args(shlex.split(example))


# --- evaluate ----------------------------------------------------------------------------------------------------


def test_evaluate_prints_the_result_of_evaluate(loaded, capsys, monkeypatch, tmp_path, smollm2, tok):
    import json
    from math import log

    text = "The quick brown fox jumps over the lazy dog. Ünïcödé, too.\n"
    (tmp_path / "text").write_text(text, encoding="utf-8")
    command = ["evaluate", str(tmp_path / "text"), "--window", "8", "--stride", "4"]
    ids = tok.encode(text)
    found = evaluate(smollm2, ids, 8, 4)
    n_bytes = len(text.encode()) - len(tok.decode(ids[:1]).encode())

    assert main([*command, "--json"]) == 0
    shown = capsys.readouterr()
    numbers = json.loads(shown.out)
    assert shown.err == "" and shown.out.count("\n") == 1
    assert (numbers["tokens"], numbers["bytes"], numbers["window"], numbers["stride"]) == (len(ids) - 1, n_bytes, 8, 4)
    assert numbers["nats_per_token"] == found.nats / (len(ids) - 1)
    assert numbers["bits_per_byte"] == pytest.approx(found.nats / log(2) / n_bytes)
    assert numbers["perplexity"] == found.perplexity

    assert main(command) == 0
    rows = dict(re.split(r" {2,}", line) for line in capsys.readouterr().out.splitlines())
    assert rows["perplexity"] == f"{found.perplexity:.4f}"
    assert rows["tokens"] == str(len(ids) - 1)
    assert rows["speed"].endswith(" tokens a second")

    with (tmp_path / "text").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["evaluate", "-", "--window", "8", "--stride", "4", "--max-tokens", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nats_per_token"] == evaluate(smollm2, ids[:9], 8, 4).nats_per_token


def test_progress_shows_a_bar_on_terminals_only(monkeypatch, capsys):
    from llama_from_scratch.cli.terminal import progress

    with progress("tokens", 10) as show:
        show(10)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with progress("tokens", 10) as show:
        show(7)
    assert "7/10" in capsys.readouterr().err


# --- chat --------------------------------------------------------------------------------------------------------


def test_chat_one_question_prints_the_answer(loaded, capsys, smollm2, tok):
    assert main(["chat", "What is 2+2?", "--max-new-tokens", "6", "--temperature", "0"]) == 0
    expected = list(
        generate(smollm2, tok.chat([{"role": "user", "content": "What is 2+2?"}]), 6, stop_ids=tok.stop_ids)
    )
    shown = capsys.readouterr()
    assert shown.out == tok.decode(expected) + "\n"
    assert shown.err == "[cut off after 6 tokens; --max-new-tokens allows more]\n"


def test_chat_through_a_pipe_answers_each_line(loaded, capsys, monkeypatch, tmp_path):
    (tmp_path / "lines").write_text("Hi\n\n\x04\nAnd now?\n/quit\nnever read\n")
    with (tmp_path / "lines").open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["chat", "--max-new-tokens", "2", "--temperature", "0"]) == 0
    shown = capsys.readouterr()
    assert shown.out.count("\n") == 2  # one line for each of two answers, no prompts
    assert "error: this model's vocabulary cannot spell '\\x04'" in shown.err  # and the conversation went on


@pytest.fixture(scope="module")
def short_model():
    """Random weights with the real vocabulary and a short context."""
    torch.manual_seed(0)
    return Llama(LlamaConfig(49_152, 16, 1, 2, 1, 8, 16, max_seq_len=100)).eval()


def test_conversation_drops_its_oldest_turns(short_model, tok, capsys, monkeypatch):
    talk = Conversation(short_model, tok, Sampling(), 20, system="Be brief.")
    seen = []
    monkeypatch.setattr(
        tok, "chat", lambda messages, form: seen.append(messages) or Tokenizer.chat(tok, messages, form)
    )
    for i in range(6):
        assert talk.ask(f"question number {i}")
    first, *_, last = [messages for messages in seen if messages[-1]["content"] == "question number 5"]
    assert len(last) < len(first)  # it did not fit, and something was dropped
    assert last[0] == {"role": "system", "content": "Be brief."}
    assert [message["role"] for message in last[1:]] == ["user", "assistant"] * (len(last) // 2 - 1) + ["user"]
    assert last[1:] == first[-len(last) + 1 :]  # the oldest, in whole turns
    assert "[the conversation outgrew the context of 100 tokens; its 2 oldest" in capsys.readouterr().err
    before = list(talk.turns)
    with pytest.raises(ValueError, match="context is 100"):
        talk.ask("a question that is much too long " * 10)
    assert talk.turns == before  # a question that no forgetting makes room for costs nothing


def test_conversation_reuses_its_cache(short_model, tok, capsys):
    """And the answers are those of a conversation that computes everything again."""
    talk, sizes = Conversation(short_model, tok, Sampling(), 5), []
    hook = short_model.norm.register_forward_hook(lambda _, inputs, output: sizes.append(output.shape[1]))
    try:
        for question in ("Hi", "And now?"):
            turns = list(talk.turns)
            sizes.clear()
            assert talk.ask(question)
    finally:
        hook.remove()
    prompt = tok.chat([*turns, {"role": "user", "content": "And now?"}])
    assert sizes[0] <= len(prompt) - len(tok.chat([{"role": "user", "content": "Hi"}]))
    fresh = list(generate(short_model, prompt, 5, stop_ids=tok.stop_ids))
    assert talk.turns[-1]["content"] == tok.decode(fresh)


def test_conversation_answer_cut_in_a_character_shows_it(short_model, tok, capsys, monkeypatch):
    half = next(i for i, piece in enumerate(tok.pieces) if piece == b"\xc3")
    monkeypatch.setattr(chat, "generate", lambda *_: iter([half]))
    assert Conversation(short_model, tok, Sampling(), 1).ask("Hello")
    assert capsys.readouterr().out == "\ufffd\n"


def test_conversation_interrupted_answer_is_kept(short_model, tok, capsys, monkeypatch):
    talk = Conversation(short_model, tok, Sampling(), 20)
    calls = []

    def interrupt(*_):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    hook = short_model.norm.register_forward_hook(interrupt)
    try:
        assert not talk.ask("Hello")
    finally:
        hook.remove()
    shown = capsys.readouterr()
    assert "[stopped]" in shown.err
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"]
    assert shown.out == talk.turns[1]["content"] + "\n"


# --- inspect -----------------------------------------------------------------------------------------------------


def test_inspect_prints_what_the_model_has(capsys, smollm2, tok):
    assert main(["inspect"]) == 0
    text = capsys.readouterr().out
    rows = {cells[0]: cells[1:] for cells in (re.split(r" {2,}", line.strip()) for line in text.splitlines())}
    count = lambda part: sum(p.numel() for name, p in smollm2.named_parameters() if part in name)  # noqa: E731
    assert rows["all"] == [f"{sum(p.numel() for p in smollm2.parameters()):,}"]
    assert rows["attention"][0] == f"{count('attention.'):,}"
    assert rows["feed-forward"][0] == f"{count('feed_forward.'):,}"
    assert rows["norms"][0] == f"{count('norm'):,}"
    assert rows["embedding"][0] == f"{count('embedding'):,}"
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        from llama_from_scratch import KVCache

        assert rows[f"cache in {name}"] == [f"{KVCache(smollm2.config, 1, 1, dtype).n_bytes:,} bytes a token"]
    assert rows["n_kv_heads"] == ["3"] and rows["format"] == ["GGUF"]
    assert rows["tokens"] == [f"{len(tok):,}, {len(tok.special)} of them special"]
    assert rows["stops at"] == ["0 <|endoftext|>, 2 <|im_end|>"]


def test_inspect_on_a_terminal_draws_tables(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["inspect"]) == 0
    text = capsys.readouterr().out
    assert "134,515,008" in text and "│" in text


def test_inspect_tokenizer_without_stop_tokens(capsys, tmp_path):
    from llama_from_scratch.checkpoint import save_model
    from llama_from_scratch.tokenizer import train_bpe

    tokenizer = train_bpe("a text", 256, special=())
    save_model(Llama(LlamaConfig(256, 16, 1, 2, 1, 8, 16)), tmp_path / "model", tokenizer=tokenizer)
    assert main(["inspect", str(tmp_path / "model")]) == 0
    assert re.search("^ *stops at +none$", capsys.readouterr().out, re.MULTILINE)


def test_inspect_model_without_tokenizer(capsys, tmp_path):
    from llama_from_scratch.checkpoint import save_model

    save_model(Llama(LlamaConfig(50, 16, 1, 2, 1, 8, 16)), tmp_path / "model")
    assert main(["inspect", str(tmp_path / "model")]) == 0
    text = capsys.readouterr().out
    assert "none that can be read" in text and "output projection" in text
