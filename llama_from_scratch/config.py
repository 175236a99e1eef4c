"""The numbers that define a Llama, and the presets of every public text model of the family.

Letters used in shapes throughout the package:
`batch` sequences, `seq` tokens in this call, `keys` tokens attended to (cached ones included),
`dim` width of the residual stream, `heads` query heads, `kv_heads` key/value heads,
`head_dim` width of one head, `half` = head_dim / 2, `ffn_dim` width inside the feed-forward, `vocab` tokens known.
"""

from dataclasses import dataclass, fields
from math import isfinite
from typing import Literal

SCALING_KINDS = ("linear", "dynamic", "yarn", "llama3")


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value) and value > 0


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


@dataclass(frozen=True)
class RopeScaling:
    """How RoPE's frequencies are changed so that a model reads further than it was trained to."""

    kind: Literal["linear", "dynamic", "yarn", "llama3"]
    factor: float  # how many times longer than the training context
    original_max_seq_len: int | None = None  # training context in tokens (all kinds but linear need it)
    low_freq_factor: float = 1.0  # llama3: pairs with fewer turns in the training context are divided by factor
    high_freq_factor: float = 4.0  # llama3: pairs with more turns in the training context stay as they are
    beta_fast: float = 32.0  # yarn: as high_freq_factor
    beta_slow: float = 1.0  # yarn: as low_freq_factor
    attention_factor: float | None = None  # yarn: multiplies cos and sin; None means 0.1 ln(factor) + 1

    def __post_init__(self) -> None:
        if self.kind not in SCALING_KINDS:
            raise ValueError(f"rope_scaling kind is {self.kind!r}; known kinds are {', '.join(SCALING_KINDS)}")
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, float) and not _is_positive(value):
                raise ValueError(f"rope_scaling {field.name} is {value!r}; it must be a finite number above 0")
        if not (_is_positive(self.factor) and self.factor >= 1):
            raise ValueError(f"rope_scaling factor is {self.factor!r}; it must be a finite number of at least 1")
        if self.attention_factor is not None and not _is_positive(self.attention_factor):
            raise ValueError(
                f"rope_scaling attention_factor is {self.attention_factor!r}; it must be a number above 0, or None"
            )
        if self.kind != "linear" and not _is_count(self.original_max_seq_len):
            raise ValueError(
                f"rope_scaling {self.kind!r} needs original_max_seq_len, the context length of training in tokens; "
                f"it is {self.original_max_seq_len!r} and must be a whole number of at least 1"
            )
        if not 0 < self.low_freq_factor < self.high_freq_factor or not 0 < self.beta_slow < self.beta_fast:
            raise ValueError("rope_scaling must have 0 < low_freq_factor < high_freq_factor, 0 < beta_slow < beta_fast")


@dataclass(frozen=True)
class LlamaConfig:
    """Everything that distinguishes one Llama from another, apart from its weights.

    Raises:
        ValueError: for numbers that no Llama can have; the message names the field, its value and what is allowed.
    """

    vocab_size: int  # tokens in the vocabulary
    dim: int  # width of the residual stream
    n_layers: int  # blocks, one after another
    n_heads: int  # query heads in each attention layer
    n_kv_heads: int  # key/value heads; n_heads of them is MHA, 1 is MQA, between is GQA
    head_dim: int  # width of one head: dim / n_heads in every released Llama
    ffn_dim: int  # width inside the feed-forward layer
    norm_eps: float = 1e-5  # added to the mean square before the root
    rope_theta: float = 10_000.0  # base of RoPE's frequencies
    rope_scaling: RopeScaling | None = None
    max_seq_len: int = 2048  # positions the model may be given
    tie_embeddings: bool = False  # the output projection is the embedding table
    attention_bias: bool = False  # q, k, v and o add a bias; no released Llama does, some relatives do
    ffn_bias: bool = False  # gate, up and down add a bias

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and not _is_count(value):
                raise ValueError(f"{field.name} is {value!r}; it must be a whole number of at least 1")
            if field.type is float and not _is_positive(value):
                raise ValueError(f"{field.name} is {value!r}; it must be a finite number above 0")
            if field.type is bool and not isinstance(value, bool):
                raise ValueError(f"{field.name} is {value!r}; it must be True or False")
        if not isinstance(self.rope_scaling, RopeScaling | None):
            raise ValueError(f"rope_scaling is {self.rope_scaling!r}; it must be a RopeScaling, or None")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads is {self.n_heads} and n_kv_heads is {self.n_kv_heads}; "
                "n_heads must be a multiple of n_kv_heads, so that each key/value head serves equally many query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; it must be even, because RoPE rotates pairs of numbers")

    @classmethod
    def preset(cls, name: str) -> "LlamaConfig":
        """The config of a released model, e.g. `LlamaConfig.preset("Llama-3.1-8B")`. See `PRESETS` for all names."""
        if name not in PRESETS:
            raise ValueError(f"no preset is called {name!r}; there are: {', '.join(PRESETS)}")
        return PRESETS[name]

    @property
    def group_size(self) -> int:
        """Query heads that share one key/value head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_params_by_part(self) -> dict[str, int]:
        """Parameters of each part, all blocks together; a tied output projection has none of its own."""
        q_dim, kv_dim = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        attention = 2 * self.dim * (q_dim + kv_dim) + self.attention_bias * (q_dim + 2 * kv_dim + self.dim)
        feed_forward = 3 * self.dim * self.ffn_dim + self.ffn_bias * (2 * self.ffn_dim + self.dim)
        table = self.vocab_size * self.dim
        return {
            "embedding": table,
            "attention": self.n_layers * attention,
            "feed-forward": self.n_layers * feed_forward,
            "norms": (2 * self.n_layers + 1) * self.dim,  # two in each block, and the last one
            "output projection": 0 if self.tie_embeddings else table,
        }

    @property
    def n_params(self) -> int:
        """Parameters of the model; a tied output projection is counted once."""
        return sum(self.n_params_by_part.values())


def _preset(
    vocab_size, dim, n_layers, n_heads, n_kv_heads, ffn_dim, theta, max_seq_len, eps=1e-5, tied=False, factor=None
):
    scaling = RopeScaling("llama3", factor, original_max_seq_len=8192) if factor else None
    return LlamaConfig(
        vocab_size, dim, n_layers, n_heads, n_kv_heads, dim // n_heads, ffn_dim, eps, theta, scaling, max_seq_len, tied
    )


# Sources: Meta's params.json, and the config.json of each released repository.
# fmt: off
PRESETS: dict[str, LlamaConfig] = {
    #                                vocab    dim layers heads kv  ffn_dim  theta  context
    "Llama-1-7B":             _preset(32000,  4096,  32,  32,  32, 11008, 1e4,   2048, eps=1e-6),
    "Llama-1-13B":            _preset(32000,  5120,  40,  40,  40, 13824, 1e4,   2048, eps=1e-6),
    "Llama-1-33B":            _preset(32000,  6656,  60,  52,  52, 17920, 1e4,   2048, eps=1e-6),
    "Llama-1-65B":            _preset(32000,  8192,  80,  64,  64, 22016, 1e4,   2048),
    "Llama-2-7B":             _preset(32000,  4096,  32,  32,  32, 11008, 1e4,   4096),
    "Llama-2-13B":            _preset(32000,  5120,  40,  40,  40, 13824, 1e4,   4096),
    "Llama-2-70B":            _preset(32000,  8192,  80,  64,   8, 28672, 1e4,   4096),
    "Llama-3-8B":             _preset(128256, 4096,  32,  32,   8, 14336, 5e5,   8192),
    "Llama-3-70B":            _preset(128256, 8192,  80,  64,   8, 28672, 5e5,   8192),
    "Llama-3.1-8B":           _preset(128256, 4096,  32,  32,   8, 14336, 5e5, 131072, factor=8.0),
    "Llama-3.1-70B":          _preset(128256, 8192,  80,  64,   8, 28672, 5e5, 131072, factor=8.0),
    "Llama-3.1-405B":         _preset(128256, 16384, 126, 128,  8, 53248, 5e5, 131072, factor=8.0),
    "Llama-3.2-1B":           _preset(128256, 2048,  16,  32,   8,  8192, 5e5, 131072, tied=True, factor=32.0),
    "Llama-3.2-3B":           _preset(128256, 3072,  28,  24,   8,  8192, 5e5, 131072, tied=True, factor=32.0),
    "Llama-3.3-70B-Instruct": _preset(128256, 8192,  80,  64,   8, 28672, 5e5, 131072, factor=8.0),
    "TinyLlama-1.1B":         _preset(32000,  2048,  22,  32,   4,  5632, 1e4,   2048),
    "SmolLM2-135M":           _preset(49152,   576,  30,   9,   3,  1536, 1e5,   8192, tied=True),
    "SmolLM2-360M":           _preset(49152,   960,  32,  15,   5,  2560, 1e5,   8192, tied=True),
    "SmolLM2-1.7B":           _preset(49152,  2048,  24,  32,  32,  8192, 1.3e5, 8192, tied=True),
}
# fmt: on
