"""From one format to another, tensor by tensor."""

import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .checkpoint.formats import format_for, open_checkpoint, writer
from .checkpoint.stored import TYPES, Checkpoint, empty_model
from .files.layout import CanSave, TokenizerFiles
from .files.resolve import resolve
from .tokenizer import load_tokenizer
from .tokenizer.formats.save import tokenizer_json
from .tokenizer.formats.tokenizer_model import tokenizer_model

OWN_TOKENIZER = {"huggingface": "tokenizer.json", "meta": "tokenizer.model"}  # what other programs look for there
ROUNDED = {"F32": {"F64"}, "F16": {"F64", "F32", "BF16"}, "BF16": {"F64", "F32", "F16"}}  # into each type


def convert(
    source: str | Path,
    target: str | Path,
    format: str | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Write the model called `source`, with its tokenizer, to `target`. No more than one shard of it is ever in memory.

    source: named as for `load_model`. target: a file called something.gguf, or a folder.
    format: "huggingface", "meta" or "gguf"; None goes by the name of the target, and a folder is Hugging Face's.
    dtype: "F32", "F16", "BF16", or for GGUF "Q8_0"; None keeps the type of the matrices, and makes quantised ones F32.
    progress: called with the bytes of the source that have been read so far; all are `describe(source).n_bytes`.
    Returns remarks, each a sentence: what of the model has changed or stays behind.
    Raises:
        CheckpointError: if the source cannot be read, the format cannot hold it, or the target cannot be written.
    """
    target = Path(target).expanduser()
    format = format_for(target, format)
    checkpoint = open_checkpoint(resolve(source))
    empty_model(checkpoint)
    dtype = dtype or _type(checkpoint)
    tokenizer, remarks = _tokenizer(checkpoint, format)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        writer(format)(checkpoint, target, dtype, tokenizer=tokenizer, overwrite=overwrite, progress=progress)
    return _changes(checkpoint, format, dtype) + remarks + [str(warning.message) for warning in caught]


def _type(checkpoint: Checkpoint) -> str:
    kinds = {tensor.stored_type for tensor in checkpoint.tensors if len(tensor.shape) > 1}
    return kinds.pop() if len(kinds) == 1 and kinds <= TYPES.keys() else "F32"


def _changes(checkpoint: Checkpoint, format: str, dtype: str) -> list[str]:
    matrices = [tensor for tensor in checkpoint.tensors if len(tensor.shape) > 1]
    kinds = Counter(tensor.stored_type for tensor in (matrices if format == "gguf" else checkpoint.tensors))
    remarks = []
    for kind, n in kinds.items():
        quantised = kind not in (*TYPES, "F64")
        if kind != dtype and (dtype == "Q8_0" or kind in ROUNDED[dtype] or (quantised and dtype != "F32")):
            remarks.append(f"tensors rounded from {kind} to {dtype}: {n}")
        elif quantised and kind != dtype:
            remarks.append(f"tensors of {kind} written as {dtype}, the same numbers in more bytes: {n}")
    scaling = checkpoint.config.rope_scaling
    if format == "meta" and scaling and scaling.factor != 8:
        remarks.append(
            f"params.json says that RoPE is scaled by {scaling.factor:g}; Meta's own code (llama-models 0.3.0) "
            "does not look there and always scales by 8"
        )
    return remarks


@dataclass(frozen=True)
class TokenizerModel:
    """A tokenizer to be saved as Meta's own code reads it."""

    content: bytes
    chat_template: str | None

    def save(self, folder: Path) -> None:
        (folder / OWN_TOKENIZER["meta"]).write_bytes(self.content)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_bytes(self.chat_template.encode())


def _tokenizer(checkpoint: Checkpoint, format: str) -> tuple[CanSave | None, list[str]]:
    """What writes the tokenizer, and what there is to say about it."""
    path = checkpoint.path
    folder = path if path.is_dir() else path.parent if path.suffix == ".safetensors" else None
    if folder and format in OWN_TOKENIZER and (folder / OWN_TOKENIZER[format]).is_file():
        return TokenizerFiles.of(folder), []  # as it is, whatever it is
    try:
        tokenizer = load_tokenizer(path)
        if len(tokenizer) > checkpoint.config.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens and the model only {checkpoint.config.vocab_size}")
        if format == "meta" and tokenizer.add_bos:  # whoever reads a tokenizer.model begins texts with bos
            with suppress(ValueError):  # it is of another kind
                return TokenizerModel(tokenizer_model(tokenizer), tokenizer.chat_template), []
        tokenizer.gguf_fields() if format == "gguf" else tokenizer_json(
            tokenizer
        )  # before hours of writing: can it be said?
    except ValueError as error:
        nothing = None if format == "gguf" else TokenizerFiles(())  # nor must that of an older model stay in the folder
        return nothing, [f"the tokenizer stays behind: {error}"]
    if format == "meta":
        return tokenizer, ["the tokenizer is written as tokenizer.json; Meta's own code reads only tokenizer.model"]
    return tokenizer, []
