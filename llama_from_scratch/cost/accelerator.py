"""FLOP/s, memory and links of a GPU, and the bandwidth within a group of GPUs."""

from dataclasses import dataclass
from math import prod

from .layout import Layout


@dataclass(frozen=True)
class Accelerator:
    """One GPU and its links. FLOP/s are dense bf16; bandwidths are bytes per second, links in one direction."""

    name: str
    peak_flops: float  # of the data sheet; MFU is a share of this
    matmul_flops: float  # best that was measured for one matrix product
    attention_flops: float  # measured for a fused attention kernel
    memory: int  # bytes
    memory_bandwidth: float
    node_bandwidth: float  # from one GPU to the others of its machine
    network_bandwidth: float  # from one GPU to other machines
    gpus_per_node: int = 8


# Peak, memory and links: NVIDIA's data sheets (NVLink 900 and 600 GB/s count both directions; 80 GB is 80 · 2^30 bytes)
# and the network of the machine named. Matrix products: Bekman, Machine Learning Engineering, table "Maximum
# Achievable Matmul FLOPS" (A100 267.9, H100 792.1 TFLOP/s). Attention: FlashAttention-2, 35 % of the peak on an H100
# (Shah et al., 2024, arXiv 2407.08608, abstract) and 50 to 73 % on an A100 (Dao, 2023, arXiv 2307.08691, abstract).
# Network: 400 Gb/s for each H100 (Dubey et al., 2024, arXiv 2407.21783, section 3.3.1), 200 Gb/s for each A100 (DGX).
H100_SXM = Accelerator("H100 SXM", 989.4e12, 792.1e12, 0.35 * 989.4e12, 80 * 2**30, 3.35e12, 450e9, 50e9)
A100_SXM = Accelerator("A100 SXM", 312e12, 267.9e12, 0.615 * 312e12, 80 * 2**30, 2.04e12, 300e9, 25e9)


def link_bandwidth(layout: Layout, gpu: Accelerator, group: str) -> float:
    """Bytes per second that each rank of a group can send to its neighbour on a ring, at the peak of the links.

    A group within one machine uses the links inside it. Otherwise the ring crosses between machines: n members on one
    machine send at the rate of n network cards, or of the links inside if that is lower.
    """
    axes = {name: getattr(layout, name) for name in ("tensor", "context", "pipeline", "data", "replicas")}
    moving = ("context", "data") if group == "data" else (group,)
    members = 0  # of rank 0's group, on its machine
    for rank in range(min(gpu.gpus_per_node, layout.gpus)):
        index, outside = rank, 0
        for name, size in axes.items():
            index, coordinate = divmod(index, size)
            outside += coordinate * (name not in moving)
        members += outside == 0
    if members == prod(axes[name] for name in moving):
        return gpu.node_bandwidth
    return min(gpu.node_bandwidth, members * gpu.network_bandwidth)
