"""How much a faster model changes the predictions, with the kernels of decoding or with those of a prompt."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..model import Llama

PIECE = 32  # tokens in a pass: few enough for the kernels that decode (`fast.int8.WIDE`)


@dataclass(frozen=True)
class Quality:
    """A model beside a reference, on one text."""

    nats_per_token: float  # -log p of the text's own tokens
    perplexity_change: float  # as a share of the reference's: 0.01 is one per cent worse
    same_choice: float  # share of positions where the most likely token is that of the reference
    divergence: float  # mean KL(reference || model) in nats


@torch.inference_mode()
def next_token_logits(model: Llama, ids: Int[Tensor, "1 seq"], at_a_time: int = PIECE) -> Float[Tensor, "seq vocab"]:
    """Logits after every token of a text, in fp32."""
    cache = model.new_cache(1, ids.shape[1])
    return torch.cat([model(piece, cache)[0].float() for piece in ids.split(at_a_time, dim=1)])


def compare(
    reference: Float[Tensor, "seq vocab"], model: Llama, ids: Int[Tensor, "1 seq"], at_a_time: int = PIECE
) -> Quality:
    """`model` on a text, beside the logits of another model (`reference`) for the same text."""
    found = next_token_logits(model, ids, at_a_time)
    theirs, ours = (logits[:-1].double().log_softmax(dim=-1) for logits in (reference, found))
    wanted = ids[0, 1:, None].long()
    before, after = (float(-log_p.gather(-1, wanted).mean()) for log_p in (theirs, ours))
    return Quality(
        after,
        float(torch.tensor(after - before).expm1()),
        float((ours.argmax(dim=-1) == theirs.argmax(dim=-1)).double().mean()),
        float((theirs.exp() * (theirs - ours)).sum(dim=-1).mean()),
    )
