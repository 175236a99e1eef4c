"""Checks of the chapter on the residual stream. Each names the classic mistake that an answer shows."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .verdict import NotYet, exercise, tensor_of

EPS = 1e-5


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-4)


@exercise
def check_look_up(fn: Callable[[list[int], Tensor], Tensor]) -> str:
    """fn(ids, table[vocab, dim]) -> [tokens, dim], the rows of the ids, by a product with one-hot vectors."""
    table, ids = _random(11, 4), [7, 2, 7]
    rows = table[ids]
    try:
        found = tensor_of(fn(list(ids), table), rows.shape)
    except NotYet:
        result = fn(list(ids), table)
        if isinstance(result, Tensor) and result.shape == (3, 11):
            raise NotYet("these are the one-hot vectors", "Multiply them by the table.") from None
        if isinstance(result, Tensor) and result.shape == (4, 3):
            raise NotYet("the rows stand as columns", "One-hot vectors [3, 11] times the table [11, 4].") from None
        raise
    if _close(found, table[[0, 1, 2]]):
        raise NotYet("these are the first rows", "The 1 of each vector stands at its id.")
    if not _close(found, rows):
        raise NotYet("these are other rows", "The product with a one-hot vector leaves the row at its 1.")
    return "a look-up is a product with one-hot vectors, of which all but one row is multiplied by 0."


@exercise
def check_nearest(fn: Callable[[Tensor, int], int]) -> str:
    """fn(table[vocab, dim], i) -> the id of the other row that has the largest cosine with row i."""
    table = _random(20, 6)
    table[5] = table[4] * 0.3 + 0.02  # short, in nearly the same direction
    table[9] = table[4] * -1.1  # the opposite
    table[12] = table[4] * 4 + _random(6) * 5  # long: the largest product
    beside = nn.functional.normalize(_random(6).flip(0), dim=0)
    table[15] = table[4] + 0.45 * table[4].norm() * beside  # the nearest in space
    answer = fn(table, 4)
    if answer is None or answer is ...:
        raise NotYet("the function returns None", "Write its body and end it with `return`.")
    if isinstance(answer, Tensor) and answer.numel() != 1:
        raise NotYet(f"the answer has shape {list(answer.shape)}", "Return one id.")
    answer = int(answer)
    wrong = {
        4: ("that is the row itself", "Its cosine with itself is 1; leave it out."),
        12: ("that row has the largest product, since it is long", "Divide by both lengths."),
        15: ("that row is the nearest in space, and the cosine does not ask for length", "Compare directions."),
        9: ("that row points the other way", "A cosine of −1 is the least; take the largest."),
    }
    if answer in wrong:
        raise NotYet(*wrong[answer])
    if answer != 5:
        raise NotYet(f"row {answer} is not it", "cosine = product over both lengths, along dim=-1.")
    return "row 5 is a third as long, and points nearly the same way."


@exercise
def check_stream(fn: Callable[[Tensor, Tensor], Tensor]) -> str:
    """fn(row[dim], written[n, dim]) -> [n + 1, dim], the stream before the first and after each writing."""
    row, written = _random(6), _random(4, 6).flip(0)
    right = torch.cat((row[None], written)).cumsum(0)
    row_before = row.clone()
    found = fn(row, written)
    if isinstance(found, Tensor) and found.shape == (4, 6):
        raise NotYet("one version is missing", "The stream before the first writing counts too: n + 1 versions.")
    found = tensor_of(found, (5, 6))
    if not torch.equal(row, row_before):
        raise NotYet("your function changes `row`", "`x += …` writes into the tensor it was given; use `x = x + …`.")
    if _close(found, torch.cat((row[None], written))):
        raise NotYet("these are the writings themselves", "Each version is the one before plus one writing.")
    if _close(found, right[-1].expand(5, -1)):
        raise NotYet("all versions are the last one", "`x += …` changes the tensor that is in your list already.")
    if _close(found, right - row):
        raise NotYet("the row of the table is missing from the sums", "Start with it.")
    if not _close(found, right):
        raise NotYet("these are not the sums so far", "Version k is the row plus the first k writings.")
    return "each version is the one before plus what was written."


@exercise
def check_account(fn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """fn(written[n, dim], gain[dim], head_row[dim]) -> [n], what each writing gives to one logit; ε is 1e-5."""
    written, gain, head_row = _random(5, 8) * torch.arange(1, 6)[:, None], _random(8).abs() + 0.3, _random(8).flip(0)
    x = written.sum(0)
    r = (x.pow(2).mean() + EPS).sqrt()
    right = (written / r * gain) @ head_row
    found = tensor_of(fn(written, gain, head_row), (5,))
    own = (written.pow(2).mean(-1, keepdim=True) + EPS).sqrt()
    mistakes = {
        "each writing is divided by its own r": (written / own * gain) @ head_row,
        "the gain is missing": (written / r) @ head_row,
        "nothing is divided": (written * gain) @ head_row,
        "these are products with neither r nor gain": written @ head_row,
        "the length is used for r": (written / x.norm() * gain) @ head_row,
        "r is squared": (written / r**2 * gain) @ head_row,
    }
    for because, wrong in mistakes.items():
        if _close(found, wrong):
            raise NotYet(
                because, "The last norm divides the whole sum by one number, its r, and multiplies by the gain."
            )
    if not _close(found, right):
        raise NotYet("their sum is not the logit", "r belongs to the sum of all writings; then gain, then head_row.")
    return "they add up to the logit."


class _Untied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(13, 5)
        self.head = nn.Linear(5, 13, bias=False)


@exercise
def check_tie(fn: Callable[[nn.Module], object]) -> str:
    """fn(model), a module with `embedding` and `head`, makes the two share one matrix; what it returns is not used."""
    model = _Untied()
    before = model.head.weight
    fn(model)
    table, head = model.embedding.weight, model.head.weight
    if head is before and not torch.equal(table, head):
        raise NotYet("the two matrices still differ", "Give the head the table's own parameter.")
    if table is not head:
        shared = table.data_ptr() == head.data_ptr()
        because = "there are still two parameters, over the same numbers" if shared else "the head has a copy"
        hint = "An optimizer would move the numbers twice." if shared else "After one step of training the two differ."
        raise NotYet(because, f"{hint} Assign the parameter itself: `head.weight = embedding.weight`.")
    if not isinstance(table, nn.Parameter) or table.shape != (13, 5):
        raise NotYet("the shared matrix is not the table", "Both weights are [vocab, dim] already: no transpose.")
    logits = model.head(model.embedding(torch.tensor([1, 4])))
    nn.functional.cross_entropy(logits, torch.tensor([4, 2])).backward()
    torch.optim.SGD(model.parameters(), 0.5).step()
    if not torch.equal(model.embedding.weight, model.head.weight):
        raise NotYet("after one step of training the two differ", "Assign the parameter itself.")
    return f"one matrix, {sum(p.numel() for p in model.parameters())} numbers instead of 130, trained from both ends."
