"""Numbers of a config, read strictly: neither true nor "8" counts as a number."""

import math
from collections.abc import Mapping
from typing import Any

from ..files.errors import said, to_float


def read_whole(section: Mapping[str, Any], key: str, default: int | None = None) -> int:
    """A whole number of at least 1; a key that is missing or null means `default`.

    Raises:
        ValueError: naming the key.
    """
    value = default if section.get(key) is None else section[key]
    if type(value) is not int or value < 1:
        raise ValueError(f"{key} is {said(value)}; it must be a whole number of at least 1")
    return value


def read_number(section: Mapping[str, Any], key: str, default: float | None = None) -> float:
    """A finite number, with a fraction or without; a key that is missing or null means `default`.

    Raises:
        ValueError: naming the key.
    """
    value = default if section.get(key) is None else section[key]
    if type(value) not in (int, float) or not math.isfinite(to_float(key, value)):
        raise ValueError(f"{key} is {said(value)}; it must be a finite number")
    return float(value)
