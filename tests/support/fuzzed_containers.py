"""Containers with mutated bytes: a healthy model of each format, which of its bytes describe the others, and how to
damage them. Bytes of weights are left alone, since no format could tell."""

import random
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import gguf
import torch
from bad_checkpoints import META_PARAMS, META_TINY, TINY
from checkpoint_files import hf_weights, write_gguf, write_meta
from reference import random_hf
from safetensors.torch import save_file

ONE = replace(TINY, n_layers=1)
INTERESTING = [0, 1, 2, 4, 8, 26, 31, 32, 33, 64, 127, 128, 255]
DIGITS = [bytes([digit]) for digit in b"0123456789"]
NUMBERS = [0, 1, 2**31 - 1, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]


def healthy_files(home: Path) -> dict[str, tuple[Path, list[Path]]]:
    """By format: what to load, and the files to damage, one at a time."""
    for folder in ("hf", "shards", "bin", "meta"):
        (home / folder).mkdir()
    theirs = random_hf(ONE)
    weights = hf_weights(theirs)
    write_gguf(home / "model.gguf", theirs.config, weights)
    write_gguf(home / "q8.gguf", theirs.config, weights, gguf.GGMLQuantizationType.Q8_0)
    save_file(weights, home / "hf" / "model.safetensors")
    torch.save(weights, home / "bin" / "pytorch_model.bin")
    theirs.save_pretrained(home / "shards", max_shard_size="9KB")
    for folder in ("hf", "bin"):
        theirs.config.save_pretrained(home / folder)
    meta = random_hf(replace(META_TINY, n_layers=1))
    write_meta(home / "meta", meta.config, hf_weights(meta), META_PARAMS)
    return {
        "gguf": (home / "model.gguf", [home / "model.gguf"]),
        "gguf-q8": (home / "q8.gguf", [home / "q8.gguf"]),
        "safetensors": (home / "hf", [home / "hf" / "model.safetensors"]),
        "meta": (home / "meta", [home / "meta" / "consolidated.00.pth"]),
        "pytorch": (home / "bin", [home / "bin" / "pytorch_model.bin"]),
        "json": (home / "shards", [home / "shards" / name for name in ("config.json", "model.safetensors.index.json")]),
        "params": (home / "meta", [home / "meta" / "params.json"]),
    }


def described(path: Path) -> list[range]:
    """The bytes of a file that are not the bytes of weights."""
    data = path.read_bytes()
    if path.suffix == ".gguf":
        return [range(min(int(tensor.data_offset) for tensor in gguf.GGUFReader(path).tensors))]
    if path.suffix == ".safetensors":
        return [range(8 + struct.unpack("<Q", data[:8])[0])]
    if path.suffix == ".json":
        return [range(len(data))]
    found, end = [], 0
    with zipfile.ZipFile(path) as archive:
        for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
            if "/data/" in entry.filename:
                name, extra = struct.unpack("<2H", data[entry.header_offset + 26 : entry.header_offset + 30])
                found.append(range(end, entry.header_offset + 30 + name + extra))
                end = found[-1].stop + entry.file_size
    return [*found, range(end, len(data))]


def mutations(path: Path, chance: random.Random) -> Iterator[bytes]:
    """Without end: the file with one to three damages to the bytes that describe the others."""
    whole, places = path.read_bytes(), described(path)
    spots = [at for place in places for at in place]
    values = [bytes([byte]) for byte in INTERESTING]
    values += [struct.pack("<I", n % 2**32) for n in NUMBERS] + [struct.pack("<Q", n) for n in NUMBERS]
    words = sorted({bytes(whole[at : at + size]) for size in (4, 8) for at in spots[:: max(1, len(spots) // 500)]})
    while True:
        data = bytearray(whole)
        for _ in range(chance.choice([1, 1, 1, 1, 2, 3])):
            place = chance.choices(places, [len(place) for place in places])[0]
            at, kind = chance.choice(place), chance.randrange(10)
            room = place.stop - at  # no number may reach into the weights
            if kind < 3:
                new = bytes([data[at] ^ 1 << chance.randrange(8)])
            elif kind < 5:
                new = chance.choice(values)
            elif kind < 7:  # a number or a few letters from elsewhere in the table
                new = chance.choice(words)
            elif kind < 8:  # a number a little off
                size = min(chance.choice([4, 8]), room)
                number = int.from_bytes(data[at : at + size], "little") + chance.choice(
                    [-64, -32, -4, -1, 1, 4, 32, 64]
                )
                new = (number % 2 ** (8 * size)).to_bytes(size, "little")
            elif kind < 9:  # the last damage, since all places after it are others
                size = min(chance.choice([1, 4, 8, 32]), room)
                data[at : at + size] = data[at : at + size] * 2 if chance.random() < 0.5 else b""
                break
            else:
                digits = [i for i in place[:20_000] if data[i : i + 1].isdigit()]
                at, new = (chance.choice(digits), chance.choice(DIGITS)) if digits else (at, b"\0")
            new = new[:room]
            data[at : at + len(new)] = new
        yield bytes(data)
