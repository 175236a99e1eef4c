"""Run by test_fast_decoder.py: the same small model, eager and compiled; prints what came out as JSON."""

import json
from collections import Counter

import torch
from torch._dynamo.utils import counters

from llama_from_scratch import Llama, LlamaConfig
from llama_from_scratch.fast import Decoder, prepare
from llama_from_scratch.generation import generate, generate_batch

PROMPTS = [[5, 9, 60, 33], [7], list(range(1, 12))]


def programs() -> int:
    """Compiled so far; a recompilation is one more."""
    return Counter(counters["stats"])["unique_graphs"]


torch.set_num_threads(1)
torch.manual_seed(1)
model = Llama(LlamaConfig(97, 64, 2, 8, 2, 16, 96, max_seq_len=160)).eval()
with torch.no_grad():
    for weight in model.parameters():
        weight.normal_(1 if weight.dim() == 1 else 0, 0.2)
quantised = {bits: prepare(model, quantise=bits) for bits in ("int8", "int4")}
ids = torch.randint(97, (1, 75))
with torch.no_grad():
    exact = model(ids)[0]
text = [list(generate(model, prompt, 64)) for prompt in PROMPTS]
stop = text[0][20]

found = {
    "eager": {
        "tokens": text,
        "stopped": list(generate(model, PROMPTS[0], 30, stop_ids=[stop])),
        "batch": generate_batch(model, PROMPTS, 12),
        **{bits: list(Decoder(fast, 1, 64).generate(PROMPTS[0], 24)) for bits, fast in quantised.items()},
    }
}
for scope in ("blocks", "step"):
    torch.compiler.reset()
    before = programs()
    decoder = Decoder(prepare(model), 1, 128, scope)
    result = {"tokens": [list(decoder.generate(prompt, 64)) for prompt in PROMPTS]}
    result["stopped"] = list(decoder.generate(PROMPTS[0], 30, stop_ids=[stop]))
    result["programs"] = programs() - before
    result["batch"] = Decoder(prepare(model), 3, 64, scope).generate_batch(PROMPTS, 12)
    for bits in quantised:
        fast = prepare(model, quantise=bits)
        result[bits] = list(Decoder(fast, 1, 64, scope).generate(PROMPTS[0], 24))

    # The step again, but with the logits themselves where it would choose a token.
    import llama_from_scratch.fast.step as module

    race, module.race = module.race, lambda logits, *_: logits[0]
    torch.compiler.reset()
    decoder = Decoder(prepare(model), 1, 128, scope)
    decoder.prefill(ids[:, :11])
    steps = [decoder.advance(ids[:, at : at + 1], at).flatten() for at in range(11, 75)]
    result["largest difference of logits"] = float((torch.stack(steps) - exact[11:]).abs().max())
    module.race = race
    found[scope] = result

# Prompts long enough to be compiled, too: the logits behind the last token of several lengths.
torch.compiler.reset()
decoder, off = Decoder(prepare(model), 1, 128, "blocks"), []
for length in (75, 68, 70, 66):
    before = programs()
    off.append(float((decoder.prefill(ids[:, :length])[0] - exact[length - 1]).abs().max()))
    found["blocks"].setdefault("programs for prompts", []).append(programs() - before)
found["blocks"]["largest difference behind prompts"] = max(off)
print(json.dumps(found))
