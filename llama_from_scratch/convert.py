"""From one format to another, tensor by tensor."""

import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checkpoint.formats import format_for, open_checkpoint, writer
from .checkpoint.stored import TYPES, Checkpoint, empty_model
from .files.layout import CanSave, TokenizerFiles
from .files.model_files import GENERATION_CONFIG, TEMPLATE, read_model_files
from .files.resolve import resolve
from .files.strict_json import read_json, write_json
from .tokenizer import Tokenizer, load_tokenizer
from .tokenizer.formats.gguf_fields import STOP_KEYS
from .tokenizer.formats.save import generation_config, tokenizer_json
from .tokenizer.formats.tokenizer_model import tokenizer_model
from .tokenizer.pieces import STOP_NAMES

OWN_TOKENIZER = {"huggingface": "tokenizer.json", "meta": "tokenizer.model"}  # what other programs look for there
NOT_SETTINGS = {"_from_model_config", "transformers_version"}  # of generation_config.json
OF_GGUF = ("GGUF.", "llama.", "tokenizer.")  # beginnings of fields that are read, or that each file has anew
OF_GGUF += tuple(f"general.{key}" for key in ("architecture", "alignment", "file_type", "quantization_version"))
OF_GGUF += ("general.type", "general.name")
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
    The tokenizer goes with it, and the ids at which generation stops: those that only config.json says, which
    `LlamaConfig` does not hold, go to generation_config.json.
    Returns remarks, each a sentence: what has changed, and what stays behind.
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
    if checkpoint.format == "GGUF":
        from .files.gguf import GGUFFile  # needs the package gguf

        more = sorted(key for key in GGUFFile(checkpoint.path).fields if not key.startswith(OF_GGUF))
        remarks += [f"fields of the GGUF file that stay behind: {', '.join(more)}"] if more else []
    return remarks


@dataclass(frozen=True)
class TokenizerModel:
    """A tokenizer to be saved as Meta's own code reads it."""

    content: bytes
    chat_template: str | None

    def save(self, folder: Path) -> None:
        (folder / OWN_TOKENIZER["meta"]).write_bytes(self.content)
        if self.chat_template is not None:
            (folder / TEMPLATE).write_bytes(self.chat_template.encode())


@dataclass(frozen=True)
class WithGenerationConfig:
    """A tokenizer, and generation_config.json beside it."""

    tokenizer: CanSave
    content: dict[str, Any]

    def save(self, folder: Path) -> None:
        self.tokenizer.save(folder)
        write_json(folder / GENERATION_CONFIG, self.content)


def _tokenizer(checkpoint: Checkpoint, format: str) -> tuple[CanSave | None, list[str]]:
    """What writes the tokenizer and what generation needs to know, and remarks."""
    path = checkpoint.path
    folder = path if path.is_dir() else path.parent if path.suffix == ".safetensors" else None
    said = _generation_config(folder)
    if folder and format in OWN_TOKENIZER and (folder / OWN_TOKENIZER[format]).is_file():
        files = TokenizerFiles.of(folder)  # as they are, whatever they are
        templates = [f"additional_chat_templates/{file.name}" for file in folder.glob("additional_chat_templates/*")]
        remarks = [f"files that stay behind: {', '.join(sorted(templates))}"] if templates else []
        return (files if said == _read(folder) else WithGenerationConfig(files, said)), remarks
    try:
        tokenizer = load_tokenizer(path)
        if len(tokenizer) > checkpoint.config.vocab_size:
            raise ValueError(f"it has {len(tokenizer)} tokens and the model only {checkpoint.config.vocab_size}")
        if format == "gguf":
            return tokenizer, _unsaid_in_gguf(tokenizer, tokenizer.gguf_fields(), said)
        said |= generation_config(tokenizer)
        if format == "meta" and tokenizer.add_bos:  # programs that read a tokenizer.model begin texts with bos
            with suppress(ValueError):  # it is of another kind
                return _beside_tokenizer_model(
                    TokenizerModel(tokenizer_model(tokenizer), tokenizer.chat_template), said
                )
        tokenizer_json(tokenizer)  # before hours of writing: can it be written?
    except ValueError as error:
        nothing = (
            None if format == "gguf" else TokenizerFiles(())
        )  # an older model's must not stay in the folder either
        if said and nothing:
            nothing = WithGenerationConfig(nothing, said)
        return nothing, [f"the tokenizer stays behind: {error}"]
    writer = WithGenerationConfig(tokenizer, said) if said else tokenizer
    if format == "meta":
        return writer, ["the tokenizer is written as tokenizer.json; Meta's own code reads only tokenizer.model"]
    return writer, []


def _read(folder: Path | None) -> dict[str, Any]:
    path = folder and folder / GENERATION_CONFIG
    return read_json(path) if path and path.exists() else {}


def _generation_config(folder: Path | None) -> dict[str, Any]:
    """What a folder's generation_config.json says, and the ids that only its config.json says."""
    if folder is None:
        return {}
    content, said = _read(folder), read_model_files(folder)
    ids = {"bos_token_id": said.bos_id, "eos_token_id": list(said.eos_ids), "pad_token_id": said.pad_id}
    if len(said.eos_ids) <= 1:
        ids["eos_token_id"] = next(iter(said.eos_ids), None)
    return content | {key: ids[key] for key in ids if content.get(key) is None and ids[key] is not None}


def _beside_tokenizer_model(tokenizer: TokenizerModel, said: dict[str, Any]) -> tuple[CanSave, list[str]]:
    """generation_config.json is written if a tokenizer.model alone would not say the same."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        alone = generation_config(load_tokenizer(folder))
    if said == alone:
        return tokenizer, []
    return WithGenerationConfig(tokenizer, said), [
        f"{GENERATION_CONFIG} is written beside tokenizer.model; Meta's own code does not read it"
    ]


def _unsaid_in_gguf(tokenizer: Tokenizer, fields: dict[str, Any], said: dict[str, Any]) -> list[str]:
    stops = {fields.get(key) for key in STOP_KEYS} | {tokenizer.special.get(name) for name in STOP_NAMES}
    remarks = []
    if rest := sorted(tokenizer.stop_ids - stops):
        remarks.append(f"stop ids that stay behind, since GGUF has room for three: {', '.join(map(str, rest))}")
    if settings := sorted(said.keys() - {"bos_token_id", "eos_token_id", "pad_token_id"} - NOT_SETTINGS):
        remarks.append(f"settings of {GENERATION_CONFIG} that stay behind: {', '.join(settings)}")
    return remarks
