"""`chat --chat-format`, for models whose files do not say how a conversation is written."""

import pytest
import torch

from llama_from_scratch.cli import main, options
from llama_from_scratch.config import LlamaConfig
from llama_from_scratch.model import Llama
from llama_from_scratch.tokenizer import Tokenizer, train_bpe

CHAT = ["chat", "the cat", "--max-new-tokens", "1", "--temperature", "0"]


@pytest.fixture
def chats(monkeypatch):
    """What the command gives to the model: the decoded prompt of each call of `chat`, for a vocabulary without a
    template that shows no format."""
    prompts = []

    def load(arguments):
        tok = train_bpe("the cat sat on the mat " * 9, 264, special=("<s>", "</s>", *load.marks))
        torch.manual_seed(0)
        return Llama(LlamaConfig(len(tok), 16, 1, 2, 1, 8, 16, max_seq_len=100)).eval(), tok

    encode = Tokenizer.chat

    def chat(tok, messages, format=None):
        ids = encode(tok, messages, format)
        prompts.append(tok.decode(ids))
        return ids

    load.marks = ()
    monkeypatch.setattr(options, "load", load)
    monkeypatch.setattr(Tokenizer, "chat", chat)
    return prompts, load


def test_chat_without_any_format_asks_for_one(chats, capsys):
    assert main(CHAT) == 2
    out, err = capsys.readouterr()
    assert not out and "choose one with --chat-format" in err and err.count("\n") == 1


def test_chat_takes_the_format_asked_for(chats, capsys):
    prompts, _ = chats
    assert main([*CHAT, "--chat-format", "llama2", "--system", "Sit."]) == 0
    assert prompts == ["<s>[INST] <<SYS>>\nSit.\n<</SYS>>\n\nthe cat [/INST]"]


def test_chat_takes_the_format_that_the_vocabulary_shows(chats, capsys):
    prompts, load = chats
    load.marks = ("<|im_start|>", "<|im_end|>")
    assert main(CHAT) == 0
    assert prompts == ["<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"]
    assert main([*CHAT, "--chat-format", "llama2"]) == 0
    assert prompts[1] == "<s>[INST] the cat [/INST]"
