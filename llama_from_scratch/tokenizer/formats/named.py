"""From what the files of a model say of its tokens by name to the arguments of a `Tokenizer`."""

from typing import Any

from ...files.model_files import ModelFiles

OWN = ("bos_token", "eos_token", "pad_token")  # have an id of their own in a `Tokenizer`


def named_ids(
    files: ModelFiles, special: dict[str, int], bos: str | None = None, eos: str | None = None
) -> dict[str, Any]:
    """The arguments bos_id, eos_id, pad_id, stop_ids, templates and other_names of a `Tokenizer`.

    A token that is named counts before one whose id is given, and that before what the vocabulary itself says.
    special: the ids of all special tokens. bos, eos: what the vocabulary itself says.

    Raises:
        ValueError: if a name is not among the special tokens.
    """

    def find(key: str, given: int | None, own: str | None) -> int | None:
        name = files.named.get(key, own if given is None else None)
        if name is not None and name not in special:
            raise ValueError(f"its {key} is {name!r}, which is not among its special tokens")
        if name is not None:
            return special[name]
        return given if given in special.values() else None  # the default ids of a config may mean ordinary tokens

    return {
        "bos_id": find("bos_token", files.bos_id, bos),
        "eos_id": find("eos_token", next(iter(files.eos_ids), None), eos),
        "pad_id": find("pad_token", files.pad_id, None),
        "stop_ids": files.eos_ids,
        "templates": files.templates,
        "other_names": {name: text for name, text in files.named.items() if name not in OWN},
    }
