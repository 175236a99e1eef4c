"""JSON that can be read in one way only."""

import json
from pathlib import Path
from typing import Any

from .errors import CheckpointError, reason


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: if there is no such file, or something else is in it.
    """
    try:
        content = strict_json(path)
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is missing; give a folder with config.json and safetensors, or with params.json and "
            "consolidated.00.pth, or the path of a GGUF file"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({reason(error)}); make it a file that you may read") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object in braces; download it again")
    return content


def strict_json(path: Path) -> Any:
    """The content of a JSON file, as `parse_json` reads it; OSError if it cannot be read."""
    return parse_json(path.read_bytes())


def parse_json(content: bytes) -> Any:
    """The value that JSON stands for, if it can be read in one way only.

    Raises:
        ValueError: if it is not JSON in UTF-8, names something twice in one object, or is nested too deeply.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in pairs:
            if name in found:
                raise ValueError(f"it names {name!r} twice")
            found[name] = value
        return found

    def whole(digits: str) -> int:
        if len(digits) > 1000:
            raise ValueError(f"it holds a number of {len(digits)} digits")
        return int(digits)

    try:
        return json.loads(content.decode(), object_pairs_hook=once, parse_int=whole)
    except UnicodeDecodeError as error:
        raise ValueError(f"its byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
