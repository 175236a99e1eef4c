"""Text that is meant to break a tokenizer, for property tests. LFS_EXAMPLES=10000 runs them at full length."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

MANY = settings(
    max_examples=int(os.environ.get("LFS_EXAMPLES", "200")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)

WORDS = [
    "The",
    " the",
    " don't",
    "'LL",
    "'s",
    "I'm",
    "ſ",
    "Don'T",
    "x'S'ſt",
    "...",
    "!?",
    " _",
    "a_b",
    "http://x.y/?q=%20",
]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n ", "\r\n\r\n", " \r\n\t"]
ODD_SPACES = ["\u00a0", "\u1680", "\u2003", "\u2028", "\u2029", "\u202f", "\u3000", "\x0b\x0c", "\x1c", "\x1f", "\x85"]
NUMBERS = [
    "0",
    "7",
    "42",
    "1234567890",
    " 3.14",
    "-1e-5",
    "½",
    "²",
    "Ⅻ",
    "٣",
    "१२",
    "𝟘𝟙",
    "①",
    "x2",
    "2x",
    " 1,000 000",
]
SCRIPTS = [
    *("naïve", "Ångström", "Straße", "ﬁ", "Привет", "ελληνικά", "שָׁלוֹם", "مَرْحَبًا", "नमस्ते", "বাংলা", "தமிழ்", "ไทย", "ខ្មែរ"),
    *("日本語", "ひらがな", "한국어", "\u1112\u1161\u11ab", "中文,标点。", "việc", "አማርኛ", "ქართული", "ᏣᎳᎩ", "𐍈", "𠀀"),
]
MARKS = [
    "e\u0301",
    "\u0301",
    "Z\u0351\u0346\u0321a\u0335\u0322",
    "a\u0323\u0307",
    "\u200d",
    "\u200c",
    "\u200f",
    "\u202e",
    "\u2066",
]
EMOJI = [
    "😀",
    "👍🏽",
    "👩\u200d👩\u200d👧\u200d👦",
    "🧑🏿\u200d🚀",
    "🇺🇸🇫",
    "❤\ufe0f",
    "1\ufe0f\u20e3",
    "🏴\U000e0067\U000e007f",
    "𝠀",
]
CONTROLS = [
    "\x00",
    "\x01",
    "\x04",
    "\x1b[0m",
    "\x7f",
    "\x9f",
    "\u00ad",
    "\ufeff",
    "\u200b",
    "\ufffd",
    "\ufffe",
    "\U0010ffff",
    "\ue000",
]
SPECIALS = [
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_", "|>", "<|", "<repo_name>", "<|im_<|im_end|>end|>"),
    *("<|endoftext|><|endoftext|>", " <|im_end|> ", "<|IM_END|>", "<s>", "</s>", "[INST]", "<0x0A>", "Ġthe", "Ċ", "▁"),
]
FRAGMENTS = [*WORDS, *SPACES, *ODD_SPACES, *NUMBERS, *SCRIPTS, *MARKS, *EMOJI, *CONTROLS, *SPECIALS]

# Unassigned characters (Cn) are left out: which of them are letters or digits depends on the Unicode version at hand.
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(FRAGMENTS),
        st.text(st.characters(exclude_categories=["Cs", "Cn"]), max_size=6),
        st.builds(
            str.__mul__, st.sampled_from([" ", "\n", "\r\n", "\t", "9", "a", "é", "👍", "=", " 0"]), st.integers(1, 200)
        ),
    ),
    max_size=12,
).map("".join)
