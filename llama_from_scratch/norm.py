"""RMSNorm: divide a vector by its root mean square, then scale each feature."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x²) + ε) · g, over the last dimension, for each token on its own.

    No mean is subtracted and there is no bias. `weight` (g) has shape [dim] and starts at one.
    Everything up to the multiplication by g is done in fp32 and the result is rounded once, at the end. Rounding before
    the multiplication as well (as Meta's and Hugging Face's code does) gives the same bits in fp32 and is a little less
    accurate in bf16.

    Source: Zhang and Sennrich, Root Mean Square Layer Normalization, 2019, arXiv 1910.07467, eq. 4; ε as in Meta's
    code.
    """

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        x32 = x.float()
        inverse_rms = torch.rsqrt(x32.pow(2).mean(dim=-1, keepdim=True) + self.eps)
        return (x32 * inverse_rms * self.weight.float()).to(x.dtype)
