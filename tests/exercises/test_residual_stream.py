"""The checks of the chapter "Embeddings and the residual stream" say what is right, and name each classic mistake."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llama_from_scratch import exercises


def one_hot(ids, n):
    return F.one_hot(torch.tensor(ids), n).float()


def cosine(table, i, leave_out=True):
    found = F.cosine_similarity(table, table[i][None])
    if leave_out:
        found[i] = -2
    return found


def product(table, i):
    found = table @ table[i]
    found[i] = -1e9
    return int(found.argmax())


def distance(table, i):
    found = (table - table[i]).norm(dim=1)
    found[i] = 1e9
    return int(found.argmin())


def aliased(row, written):
    x, versions = row.clone(), []
    versions.append(x)
    for w in written:
        x += w
        versions.append(x)
    return torch.stack(versions)


def in_place(row, written):
    versions = [row.clone()]
    for w in written:
        row += w
        versions.append(row.clone())
    return torch.stack(versions)


def r_of(x):
    return (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()


def share_numbers(model):
    model.head.weight.data = model.embedding.weight.data


def copy(model):
    model.head.weight.data.copy_(model.embedding.weight.data)


def new_parameter(model):
    model.head.weight = nn.Parameter(model.embedding.weight.detach().clone())


def tie(model):
    model.head.weight = model.embedding.weight


CASES = {
    "1: right": ("check_look_up", lambda ids, table: one_hot(ids, len(table)) @ table, "Correct"),
    "1: one-hot": ("check_look_up", lambda ids, table: one_hot(ids, len(table)), "one-hot vectors"),
    "1: columns": ("check_look_up", lambda ids, table: table.T @ one_hot(ids, len(table)).T, "stand as columns"),
    "1: first rows": ("check_look_up", lambda ids, table: table[: len(ids)], "first rows"),
    "1: other rows": ("check_look_up", lambda ids, table: table[[i + 1 for i in ids]], "other rows"),
    "1: stub": ("check_look_up", lambda ids, table: None, "returns None"),
    "2: right": ("check_nearest", lambda table, i: cosine(table, i).argmax(), "Correct"),
    "2: itself": ("check_nearest", lambda table, i: cosine(table, i, leave_out=False).argmax(), "row itself"),
    "2: product": ("check_nearest", product, "largest product"),
    "2: distance": ("check_nearest", distance, "nearest in space"),
    "2: opposite": ("check_nearest", lambda table, i: F.cosine_similarity(table, table[i][None]).argmin(), "other way"),
    "2: another": ("check_nearest", lambda table, i: 0, "row 0 is not it"),
    "2: all": ("check_nearest", cosine, "has shape"),
    "2: stub": ("check_nearest", lambda table, i: None, "returns None"),
    "3: right": ("check_stream", lambda row, written: torch.cat((row[None], written)).cumsum(0), "Correct"),
    "3: one missing": ("check_stream", lambda row, written: row + written.cumsum(0), "one version is missing"),
    "3: writings": ("check_stream", lambda row, written: torch.cat((row[None], written)), "writings themselves"),
    "3: aliased": ("check_stream", aliased, "all versions are the last"),
    "3: in place": ("check_stream", in_place, "changes `row`"),
    "3: no row": (
        "check_stream",
        lambda row, w: torch.cat((0 * row[None], w)).cumsum(0),
        "row of the table is missing",
    ),
    "3: stub": ("check_stream", lambda row, written: None, "returns None"),
    "4: right": ("check_account", lambda w, g, row: (w / r_of(w.sum(0)) * g) @ row, "Correct"),
    "4: own r": ("check_account", lambda w, g, row: (w / r_of(w) * g) @ row, "its own r"),
    "4: no gain": ("check_account", lambda w, g, row: (w / r_of(w.sum(0))) @ row, "gain is missing"),
    "4: no norm": ("check_account", lambda w, g, row: (w * g) @ row, "nothing is divided"),
    "4: bare": ("check_account", lambda w, g, row: w @ row, "neither r nor gain"),
    "4: length": ("check_account", lambda w, g, row: (w / w.sum(0).norm() * g) @ row, "length is used"),
    "4: squared": ("check_account", lambda w, g, row: (w / r_of(w.sum(0)) ** 2 * g) @ row, "r is squared"),
    "4: stub": ("check_account", lambda w, g, row: None, "returns None"),
    "5: right": ("check_tie", tie, "Correct"),
    "5: copy": ("check_tie", copy, "has a copy"),
    "5: new parameter": ("check_tie", new_parameter, "has a copy"),
    "5: shared numbers": ("check_tie", share_numbers, "two parameters"),
    "5: stub": ("check_tie", lambda model: None, "still differ"),
}


@pytest.mark.parametrize("case", CASES)
def test_check_says_what_is_wrong(case, capsys):
    check, answer, verdict = CASES[case]
    getattr(exercises, check)(answer)
    assert verdict in " ".join(capsys.readouterr().out.split())
