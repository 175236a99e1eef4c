"""The plan of the cuts is what PyTorch does, and the bars of memory are what the calculator says."""

import matplotlib
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.colors import to_hex  # noqa: E402
from matplotlib.patches import Rectangle  # noqa: E402

from llama_from_scratch import PRESETS, cost  # noqa: E402
from llama_from_scratch.cost import H100_SXM, Layout, peak_memory  # noqa: E402
from llama_from_scratch.plots import COLOUR, sharding  # noqa: E402

EIGHT = PRESETS["Llama-3.1-8B"]
SHAPES = {name: (outputs, inputs) for name, (inputs, outputs) in cost.matrices(EIGHT).items()}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@pytest.mark.parametrize(
    "mesh, cut",
    [({"data": 4}, {"data": 0}), ({"tensor": 4}, {"tensor": 1}), ({"data": 2, "tensor": 4}, {"data": 0, "tensor": 1})],
)
def test_pieces_lie_where_dtensor_puts_them(mesh: dict, cut: dict) -> None:
    import torch.distributed as dist
    from torch.distributed.tensor import Shard, distribute_tensor
    from torch.testing._internal.distributed.fake_pg import FakeStore

    size = torch.tensor(list(mesh.values())).prod().item()
    whole = torch.arange(8 * 16).view(8, 16)
    for rank, ((top, bottom), (left, right)) in sharding.pieces(mesh, cut).items():
        dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=size)
        try:
            device_mesh = dist.device_mesh.init_device_mesh("cpu", tuple(mesh.values()))
            # every rank has the whole at hand, so nothing has to be sent
            local = distribute_tensor(whole, device_mesh, [Shard(cut[axis]) for axis in mesh], src_data_rank=None)
        finally:
            dist.destroy_process_group()
        rows, columns = slice(int(8 * top), int(8 * bottom)), slice(int(16 * left), int(16 * right))
        assert torch.equal(local.to_local(), whole[rows, columns])


def test_pieces_cover_a_matrix_once_or_are_the_whole() -> None:
    found = sharding.pieces({"data": 2, "tensor": 2}, {"data": 0, "tensor": 0})
    # tensor parallelism halves it first, and each half is halved among the data ranks
    rows = {rank: box[0] for rank, box in found.items()}
    assert rows == {0: (0, 0.25), 2: (0.25, 0.5), 1: (0.5, 0.75), 3: (0.75, 1)}
    assert set(sharding.pieces({"data": 3}, {}).values()) == {((0, 1), (0, 1))}


def test_plan_fills_the_part_of_rank_0() -> None:
    cuts = {name: {"tensor": 1 if name in ("o", "down") else 0} for name in SHAPES if name != "v"}
    sharding.draw_plan(SHAPES, {"tensor parallel": ({"tensor": 4}, cuts)})
    ax = plt.gcf().axes[0]
    boxes = [p for p in ax.patches if isinstance(p, Rectangle)]
    filled = [p for p in boxes if to_hex(p.get_facecolor()).upper() == COLOUR["query"]]
    assert len(boxes) == 6 * 4 + 1 and len(filled) == 7  # v is whole on every rank
    q, k, v, o, gate, up, down = filled
    assert o.get_height() == pytest.approx(4 * q.get_height()) and o.get_width() == pytest.approx(q.get_width() / 4)
    assert gate.get_height() / q.get_height() == pytest.approx((14336 / 4096) ** 0.5)
    names = [text.get_text() for text in ax.texts if text.get_text().isalpha()]
    assert names == list(SHAPES)


def test_bars_are_the_memory_of_the_calculator() -> None:
    layouts = {"FSDP": Layout(data=8, micro_batch=2), "ZeRO-1": Layout(data=8, micro_batch=2, zero=1)}
    ranks = {name: peak_memory(EIGHT, layout) for name, layout in layouts.items()}
    sharding.draw_memory(ranks, H100_SXM.memory)
    ax = plt.gcf().axes[0]
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    sizes = [ranks[name][kind] / 2**30 for name in ranks for kind in sharding.KINDS]
    assert [bar.get_width() for bar in bars] == pytest.approx(sizes)
    ends = [bar.get_x() + bar.get_width() for bar in bars]
    assert ends[4] == pytest.approx(sum(sizes[:5])) and ends[9] == pytest.approx(sum(sizes[5:]))
    texts = [text.get_text() for text in ax.texts]
    assert {f"{ends[4]:.0f}", f"{ends[9]:.0f}", " 80 GiB"} <= set(texts)
    assert ax.lines[0].get_xdata()[0] == 80
    assert set(sharding.KINDS) == set(ranks["FSDP"])  # nothing is left out of the bars


def test_a_segment_without_a_limit_has_no_line() -> None:
    sharding.draw_memory({"one": dict.fromkeys(sharding.KINDS, 2**30)})
    ax = plt.gcf().axes[0]
    assert not any(len(line.get_xdata()) == 2 for line in ax.lines)
