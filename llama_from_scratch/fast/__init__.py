"""The same model, run faster. Each of these can be used without the others, and all start from a plain `Llama`.

    model = prepare(Llama.from_pretrained("SmolLM2-135M-Instruct"), fuse=True, quantise="int4")
    decoder = Decoder(model, compile="blocks")
    for token in decoder.generate(prompt_ids, 100): ...

- `fuse`: matrices that read the same vector become one, and queries that share a key are multiplied with it together;
- `quantise`: weights of 8 or 4 bits, in kernels that do not write them out in full while decoding;
- `FixedCache`: buffers that stay where they are, and positions as tensors, so that every step is the same program;
- `Decoder(compile=…)`: that program, compiled: block by block on a CPU, the full step as one CUDA graph on a GPU.
"""

from .decoder import Decoder
from .fixed_cache import FixedCache
from .fused import fuse
from .prepared import prepare
from .quantised import quantise

__all__ = ["Decoder", "FixedCache", "fuse", "prepare", "quantise"]
