"""Containers are read as strictly as their strictest readers do: every kind of bad file, beside what they say of it.

The kinds of GGUF are those of tests/test-gguf.cpp in the llama.cpp repository.
"""

import json
import math
import struct
import zipfile
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
import transformers
from bad_checkpoints import TINY
from checkpoint_files import hf_weights, write_gguf
from reference import random_hf
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from llama_from_scratch.checkpoint import CheckpointError, describe, load_model
from llama_from_scratch.files.gguf import GGUFFile
from llama_from_scratch.files.pickles import read_pickled_tensors
from llama_from_scratch.files.safetensors import open_safetensors

# GGUF, built by hand


def text(string: bytes) -> bytes:
    return struct.pack("<Q", len(string)) + string


def field(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def info(name: bytes, dims: tuple[int, ...], offset: int, kind: int = 0, n_dims: int | None = None) -> bytes:
    count = len(dims) if n_dims is None else n_dims
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", count, *dims, kind, offset)


UP = field(b"up", 4, struct.pack("<I", 7))
A, B = info(b"a", (4, 3), 0), info(b"b", (8,), 64)  # 48 bytes and 16 of padding, then 32


def build(
    fields=(UP,), infos=(A, B), *, magic=b"GGUF", version=3, n_fields=None, n_tensors=None, alignment=32, n_bytes=96
) -> bytes:
    counts = (len(infos) if n_tensors is None else n_tensors, len(fields) if n_fields is None else n_fields)
    head = magic + struct.pack("<IQQ", version, *counts) + b"".join(fields) + b"".join(infos)
    data = np.arange(n_bytes // 4, dtype="<f4").tobytes()
    return head.ljust(math.ceil(len(head) / alignment) * alignment, b"\0") + data


def align(value: bytes, kind: int = 4) -> bytes:
    return field(b"general.alignment", kind, value)


def u32(number: int) -> bytes:
    return struct.pack("<I", number)


NAME = b"x" * 64
BAD_GGUF = {
    "magic": (build(magic=b"FUGG"), "first four bytes"),
    "version 0": (build(version=0), "version is 0"),
    "version 1": (build(version=1), "version is 1"),
    "version 4": (build(version=4), "version is 4"),
    "big-endian version": (build(version=3 << 24), "big-endian"),
    "tensor count": (build(n_tensors=2**64 - 1), "no room"),
    "field count": (build(n_fields=2**64 - 1), "no room"),
    "counts that wrap": (build(n_tensors=2**63, n_fields=2**63), "no room"),
    "key beyond the file": (build([struct.pack("<Q", 2**64 - 1) + UP[8:]]), "is needed"),
    "empty key": (build([field(b"", 4, u32(7))]), "metadata entry is empty"),
    "key that is not UTF-8": (build([field(b"\xff", 4, u32(7))]), "not UTF-8"),
    "value type": (build([field(b"up", 13, u32(7))]), "type 13"),
    "array of unknown items": (build([field(b"up", 9, struct.pack("<IQ", 13, 1) + b"a")]), "type 13"),
    "array of arrays": (build([field(b"up", 9, struct.pack("<IQ", 9, 1) + bytes(20))]), "array of arrays"),
    "array that wraps": (build([field(b"up", 9, struct.pack("<IQ", 4, 2**62))]), "is needed"),
    "strings beyond the file": (build([field(b"up", 9, struct.pack("<IQ", 8, 2**61))]), "is needed"),
    "string beyond the file": (build([field(b"up", 8, struct.pack("<Q", 2**60))]), "is needed"),
    "bool of 2": (build([field(b"up", 7, b"\2")]), "up is 2, and true or false"),
    "bool of 2 in an array": (build([field(b"up", 9, struct.pack("<IQ", 7, 2) + b"\1\2")]), "up is 2"),
    "duplicate key": (build([UP, UP]), "key up twice"),
    "alignment 13": (build([align(u32(13))]), "is 13, and must be a power of two"),
    "alignment 0": (build([align(u32(0))]), "is 0, and must be a power of two"),
    "alignment of another type": (build([align(u32(32), 5)]), "general.alignment is not a number of 32 bits"),
    "empty name": (build(infos=[info(b"", (4, 3), 0), B]), "name of a tensor is empty"),
    "long name": (build(infos=[info(NAME, (4, 3), 0), B]), "64 bytes, and may have 63"),
    "5 dimensions": (build(infos=[info(b"a", (4, 3, 1, 1, 1), 0), B]), "5 dimensions"),
    "no dimensions": (build(infos=[info(b"a", (), 0)], n_bytes=4), "0 dimensions"),
    "2^32 - 1 dimensions": (build(infos=[info(b"a", (4,), 0, n_dims=2**32 - 1)]), "4294967295 dimensions"),
    "zero dimension": (build(infos=[info(b"a", (4, 0), 0), info(b"b", (8,), 0)], n_bytes=32), "at least 1"),
    "negative dimension": (build(infos=[info(b"a", (4, 2**64 - 1), 0), B]), "begins at byte 64|is needed"),
    "count that wraps": (build(infos=[info(b"a", (2**32, 2**32), 0), B]), "begins at byte 64|is needed"),
    "bytes that wrap": (build(infos=[info(b"a", (2**61, 1), 0, 27), B]), "begins at byte 64|is needed"),
    "tensor type": (build(infos=[info(b"a", (4, 3), 0, 999), B]), "type 999"),
    "removed tensor type": (build(infos=[info(b"a", (4, 3), 0, 4), B]), "type 4"),
    "rows that are no whole blocks": (build(infos=[info(b"a", (48, 1), 0, 8), B]), "needs a multiple of 32"),
    "duplicate tensor": (build(infos=[A, info(b"a", (8,), 64)]), "tensor a twice"),
    "offset of the other": (build(infos=[A, info(b"b", (8,), 0)]), "b begins at byte 0 of the data, .* end at 64"),
    "offset less 32": (build(infos=[A, info(b"b", (8,), 32)]), "b begins at byte 32"),
    "offset of 2^64 - 32": (build(infos=[A, info(b"b", (8,), 2**64 - 32)]), "b begins at byte 18446744073709551584"),
    "offset unaligned": (build(infos=[A, info(b"b", (8,), 68)], n_bytes=100), "b begins at byte 68"),
    "offset with a gap": (build(infos=[A, info(b"b", (8,), 96)], n_bytes=128), "b begins at byte 96"),
    "first offset": (build(infos=[info(b"a", (4, 3), 32)], n_bytes=96), "a begins at byte 32"),
    "alignment that the table lacks": (build([align(u32(64))], [A, info(b"b", (8,), 48)]), "b begins at byte 48"),
    "data too short": (build(n_bytes=92), "is needed"),
    "no data": (build(n_bytes=0), "is needed"),
    "bytes after the data": (build(n_bytes=100), "end at byte .*, and it has"),
    "data of 2^63 bytes twice": (
        build(infos=[info(b"a", (2**63 - 64,), 0, 24), info(b"b", (2**63 - 64,), 2**63 - 64, 24)]),
        "is needed",
    ),
}


@pytest.mark.parametrize("name", BAD_GGUF)
def test_gguf_with_a_bad_table_is_refused(tmp_path, name):
    content, expected = BAD_GGUF[name]
    (tmp_path / "a.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a whole GGUF file .*({expected}).*; download it again"):
        GGUFFile(tmp_path / "a.gguf")


NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
EVERY_TYPE = [field(b"n%d" % kind, kind, struct.pack(layout, 7)) for kind, layout in NUMBERS.items()]
EVERY_TYPE += [
    field(b"a%d" % kind, 9, struct.pack("<IQ", kind, 3) + struct.pack(f"<3{layout[1]}", 1, 2, 3))
    for kind, layout in NUMBERS.items()
]
EVERY_TYPE += [field(b"yes", 7, b"\1"), field(b"both", 9, struct.pack("<IQ", 7, 2) + b"\0\1")]
EVERY_TYPE += [
    field(b"word", 8, text(b"")),
    field(b"words", 9, struct.pack("<IQ", 8, 2) + text("é".encode()) + text(b"")),
]
EVERY_TYPE += [field(b"none", 9, struct.pack("<IQ", 4, 0))]
GOOD_GGUF = {
    "plain": build(),
    "version 2": build(version=2),
    "no padding at the end": build(infos=[A], n_bytes=48),
    "padding at the end": build(infos=[A], n_bytes=64),
    "alignment 64": build([align(u32(64))], alignment=64),
    "alignment 1": build([align(u32(1))], [A, info(b"b", (8,), 48)], alignment=1, n_bytes=80),
    "every type of value": build(EVERY_TYPE),
    "longest name": build(infos=[info(NAME[1:], (4, 3), 0), B]),
    "4 dimensions": build(infos=[info(b"a", (4, 3, 1, 1), 0), B]),
}


@pytest.mark.parametrize("name", GOOD_GGUF)
def test_gguf_by_hand_reads_as_the_package_gguf_does(tmp_path, name):
    (tmp_path / "a.gguf").write_bytes(GOOD_GGUF[name])
    ours, theirs = GGUFFile(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    for key, found in theirs.fields.items():
        if not key.startswith("GGUF."):
            expected = [] if key == "none" else found.contents()
            assert ours.value(key) == expected and type(ours.value(key)) is type(expected), key
    assert len(ours.tensors) == len(theirs.tensors) > 0
    for mine, yours in zip(ours.tensors, theirs.tensors, strict=True):
        assert (mine.name, list(reversed(mine.shape))) == (yours.name, yours.shape.tolist())
        assert mine.data.tobytes() == yours.data.tobytes()
    assert ours.value("no such key", 5) == 5


def test_gguf_names_of_any_text_make_one_short_line(tmp_path):
    """Found by the fuzz test: a length that reaches over the table, new lines and all."""
    key = b"a\n" * 10_000
    (tmp_path / "a.gguf").write_bytes(build([field(key, 4, u32(7)), field(key, 4, u32(7))]))
    with pytest.raises(CheckpointError) as caught:
        GGUFFile(tmp_path / "a.gguf")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 500


def test_gguf_string_that_is_not_utf8_names_its_key(tmp_path):
    (tmp_path / "a.gguf").write_bytes(build([field(b"up", 8, text(b"\xff"))]))
    with pytest.raises(CheckpointError, match="up is not valid UTF-8"):
        GGUFFile(tmp_path / "a.gguf").value("up")


@pytest.mark.parametrize("kind", ["another tensor's", "less 32", "2^64 - 32", "plus 4"])
def test_gguf_model_with_a_wrong_offset_is_refused(tmp_path, kind):
    """As they were reported: a whole model, the offset of one tensor changed."""
    theirs = random_hf(TINY)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs))
    name = b"blk.1.ffn_up.weight"
    data = bytearray(file.read_bytes())
    offsets = {t.name: int(t.field.parts[-1][0]) for t in gguf.GGUFReader(file).tensors}
    old = offsets[name.decode()]
    new = {"another tensor's": offsets["blk.1.ffn_gate.weight"], "less 32": old - 32, "2^64 - 32": 2**64 - 32}
    at = data.index(name) + len(name) + 4 + 16 + 4
    assert struct.unpack_from("<Q", data, at) == (old,)
    struct.pack_into("<Q", data, at, new.get(kind, old + 4))
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="begins at byte .* of the data, and the tensors before it end at"):
        load_model(file)


# safetensors


def safetensors_file(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def entry(*offsets: int, dtype: str = "F32", shape: tuple[int, ...] = (2,)) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


TWICE = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
BAD_SAFETENSORS = {
    "overlap": safetensors_file({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)),
    "same bytes": safetensors_file({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8)),
    "hole": safetensors_file({"a": entry(0, 8), "b": entry(12, 20)}, bytes(20)),
    "first offset": safetensors_file({"a": entry(4, 12)}, bytes(12)),
    "ends before it begins": safetensors_file({"a": entry(8, 0)}, bytes(8)),
    "trailing bytes": safetensors_file({"a": entry(0, 8)}, bytes(9)),
    "too few bytes": safetensors_file({"a": entry(0, 8)}, bytes(7)),
    "shape of another size": safetensors_file({"a": entry(0, 8, shape=(3,))}, bytes(8)),
    "shape that wraps": safetensors_file({"a": entry(0, 0, shape=(2**32, 2**32))}, b""),
    "negative dimension": safetensors_file({"a": entry(0, 8, shape=(-2,))}, bytes(8)),
    "unknown type": safetensors_file({"a": entry(0, 8, dtype="F31")}, bytes(8)),
    "header beyond the file": safetensors_file({"a": entry(0, 8)}, bytes(8), 2**30),
    "header over 100 MB": safetensors_file({"a": entry(0, 8)}, bytes(8), 2**63),
    "header of a list": safetensors_file(b"[1, 2]", b""),
    "header not UTF-8": safetensors_file(b'{"\xff":1}', b""),
    "header without offsets": safetensors_file({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "metadata of numbers": safetensors_file({"__metadata__": {"a": 1}, "a": entry(0, 8)}, bytes(8)),
    "seven bytes": bytes(7),
}


@pytest.mark.parametrize("name", BAD_SAFETENSORS)
def test_safetensors_that_break_a_rule_are_refused(tmp_path, name):
    """The library itself is the oracle."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(BAD_SAFETENSORS[name])
    with pytest.raises(SafetensorError):
        safe_open(path, framework="pt")
    with pytest.raises(CheckpointError, match="is not a whole safetensors file .*; download it again"):
        open_safetensors(path)


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580])
def test_safetensors_header_length_like_a_pickle_loads(tmp_path, length):
    """Its first two bytes are those that begin a pickle."""
    header = json.dumps({"a": entry(0, 8)}).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(header, bytes(8)))
    assert open_safetensors(tmp_path / "a.safetensors")[1] == {"a": ((2,), "F32")}


def test_safetensors_name_twice_is_refused(tmp_path):
    """Where the library takes the last of the two."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_file(TWICE, bytes(8)))
    assert load_file(path)["a"].shape == (1, 2)
    with pytest.raises(CheckpointError, match="names 'a' twice"):
        open_safetensors(path)


# Archives of torch.save


@pytest.fixture
def archive(tmp_path):
    """A file of two tensors as large as each other, and the place of each entry's header in it."""
    path = tmp_path / "a.bin"
    torch.save({"a": torch.zeros(8), "b": torch.ones(8)}, path)
    with zipfile.ZipFile(path) as opened:
        return path, {entry.filename.partition("/")[2]: entry for entry in opened.infolist()}


def change(path, at: int, new: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(new)] = new
    path.write_bytes(data)


def test_archive_that_is_whole_loads(archive):
    found = read_pickled_tensors(archive[0])
    assert torch.equal(found["a"], torch.zeros(8)) and torch.equal(found["b"], torch.ones(8))


def test_archive_whose_entry_lies_elsewhere_is_refused(archive):
    """More padding in the header before the bytes of a tensor: torch reads from there without a word."""
    path, entries = archive
    header = entries["data/0"].header_offset
    extra = struct.unpack_from("<H", path.read_bytes(), header + 28)[0]
    change(path, header + 28, struct.pack("<H", extra + 4))
    assert not torch.equal(torch.load(path, mmap=True, weights_only=True)["a"], torch.zeros(8))
    with pytest.raises(CheckpointError, match="not a whole file of torch.save"):
        read_pickled_tensors(path)


def test_archive_whose_pickle_changed_is_refused(archive):
    """The name of one storage in the pickle becomes that of the other; torch does not compare the checksum."""
    path, entries = archive
    at = path.read_bytes().index(b"X\1\0\0\0" + b"1", entries["data.pkl"].header_offset)
    change(path, at + 5, b"0")
    assert torch.equal(torch.load(path, mmap=True, weights_only=True)["b"], torch.zeros(8))
    with pytest.raises(CheckpointError, match="not a whole file of torch.save .*CRC"):
        read_pickled_tensors(path)


def test_archive_whose_directory_points_elsewhere_is_refused(archive):
    path, entries = archive
    data = path.read_bytes()
    at = data.rindex(b"PK\1\2", 0, data.rindex(b"data/1")) + 42
    assert struct.unpack_from("<I", data, at) == (entries["data/1"].header_offset,)
    change(path, at, struct.pack("<I", entries["data/0"].header_offset))
    with pytest.raises(CheckpointError, match="not a whole file of torch.save"):
        read_pickled_tensors(path)


# Weights under other names, or pickled


def assert_loads_as_transformers_does(folder):
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    names = {tensor.stored_name: tensor.name for tensor in describe(folder).tensors}
    ours, weights = dict(load_model(folder).named_parameters()), hf_weights(theirs)
    assert len(ours) == len(weights)
    for stored, name in names.items():
        expected = weights.get(stored, weights.get("model." + stored))
        assert torch.equal(ours[name], expected), stored


def as_pickles(folder, n_shards):
    """The same weights as transformers 4 saved them: pytorch_model.bin, or shards and an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if n_shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return
    files = [f"pytorch_model-{i + 1:05}-of-{n_shards:05}.bin" for i in range(n_shards)]
    places = {name: files[i % n_shards] for i, name in enumerate(weights)}
    for file in files:
        torch.save({name: weights[name] for name in weights if places[name] == file}, folder / file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("n_shards", [1, 3])
def test_pytorch_model_bin_loads(tmp_path, n_shards):
    random_hf(TINY).save_pretrained(tmp_path)
    as_pickles(tmp_path, n_shards)
    assert describe(tmp_path).format == "pickle"
    assert_loads_as_transformers_does(tmp_path)


def test_safetensors_are_preferred_to_pickles(tmp_path):
    theirs = random_hf(TINY)
    theirs.save_pretrained(tmp_path)
    torch.save({name: weight + 1 for name, weight in hf_weights(theirs).items()}, tmp_path / "pytorch_model.bin")
    assert_loads_as_transformers_does(tmp_path)
    assert describe(tmp_path).format == "safetensors"
    assert describe(tmp_path / "pytorch_model.bin").format == "pickle"


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_tied_base_model_loads_without_prefix_and_head(tmp_path, kind):
    """As LlamaModel, the part without a head, is saved."""
    theirs = random_hf(replace(TINY, tie_embeddings=True))
    theirs.model.save_pretrained(tmp_path)
    if kind == "pickle":
        as_pickles(tmp_path, 1)
    assert {tensor.stored_name for tensor in describe(tmp_path).tensors} >= {"embed_tokens.weight", "norm.weight"}
    assert_loads_as_transformers_does(tmp_path)


def test_untied_base_model_lacks_its_head(tmp_path):
    random_hf(TINY).model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="lm_head.weight is missing"):
        load_model(tmp_path)


def test_pickle_that_shares_a_table_gives_two_weights(tmp_path):
    """Untied by its config: training one must leave the other as it is."""
    theirs = random_hf(TINY)
    theirs.save_pretrained(tmp_path)
    weights = hf_weights(theirs)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    ours = load_model(tmp_path)
    assert torch.equal(ours.lm_head.weight, ours.embedding.weight)
    assert ours.lm_head.weight.data_ptr() != ours.embedding.weight.data_ptr()


def test_gguf_by_any_name_loads(tmp_path):
    theirs = random_hf(TINY)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs))
    assert describe(file.rename(tmp_path / "model.bin")).format == "GGUF"


def test_nan_is_not_blamed_on_the_type(tmp_path):
    """Advice to load as another type is given only where that helps."""
    theirs = random_hf(TINY)
    theirs.save_pretrained(tmp_path)
    for value, expected in (
        (float("nan"), "NaN or infinite numbers; download"),
        (1e5, "too large for torch.float16; load"),
    ):
        weights = load_file(tmp_path / "model.safetensors")
        weights["model.norm.weight"][3] = value
        save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CheckpointError, match=expected):
            load_model(tmp_path, dtype=torch.float16)
