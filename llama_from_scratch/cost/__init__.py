"""The cost of a model, computed from its config: on one chip, and on many.

`counts` has parameters, FLOPs and bytes of a model, part by part.

For training on up to thousands of GPUs: the bytes that each rank holds (`peak_memory`) and sends (`communication`), and
the time of a step (`step`). Parameters, FLOPs and bytes follow from arithmetic and are exact or nearly so; times are
projections, checked against published runs. Biases, which no released Llama has, are not counted here. Letters are
those of the papers: t tensor-parallel ranks, c context-parallel, p pipeline, v chunks of layers on each pipeline rank,
m micro-batches. Llama 3.1 405B, as it was trained:

>>> from llama_from_scratch import PRESETS
>>> from llama_from_scratch.cost import Layout, peak_memory, step
>>> model = PRESETS["Llama-3.1-405B"]
>>> mesh = {"tensor": 8, "pipeline": 16, "data": 128}
>>> layout = Layout(**mesh, chunks=8, micro_batches=16, seq=8192, zero=2)
>>> layout.gpus, layout.tokens
(16384, 16777216)
>>> held = sum(peak_memory(model, layout).values()) / 2**30
>>> f"{held:.1f} GiB on the fullest GPU"
'72.1 GiB on the fullest GPU'
>>> projected = step(model, layout)
>>> f"{projected.seconds:.2f} s a step, MFU {projected.mfu:.1%}"
'6.75 s a step, MFU 40.3%'
"""

from .accelerator import A100_SXM, H100_SXM, Accelerator, link_bandwidth
from .bytes_held import memory, micro_batches_in_flight, peak_memory, saved_bytes
from .bytes_sent import Transfer, communication, sent_bytes
from .counts import (
    RECOMPUTED,
    Number,
    Recompute,
    cache_bytes_per_token,
    decode_bytes,
    decode_intensity,
    forward_flops,
    matrices,
    parameters,
    prefill_intensity,
    training_flops,
)
from .layout import Layout, Stage, stage_parameters, stages
from .step_time import Step, step

__all__ = [
    "A100_SXM",
    "H100_SXM",
    "RECOMPUTED",
    "Accelerator",
    "Layout",
    "Number",
    "Recompute",
    "Stage",
    "Step",
    "Transfer",
    "cache_bytes_per_token",
    "communication",
    "decode_bytes",
    "decode_intensity",
    "forward_flops",
    "link_bandwidth",
    "matrices",
    "memory",
    "micro_batches_in_flight",
    "parameters",
    "peak_memory",
    "prefill_intensity",
    "saved_bytes",
    "sent_bytes",
    "stage_parameters",
    "stages",
    "step",
    "training_flops",
]
