"""Which model a run folder of `training` means: its latest save, also while training goes on."""

import re
from pathlib import Path


def saves_in(run: Path) -> list[Path]:
    """The saves of a run, oldest first. A save that is being written has another name until it is complete."""
    saves = [path for path in (run / "saves").glob("step-*") if re.fullmatch(r"step-[0-9]{8,}", path.name)]
    return sorted(saves, key=lambda path: int(path.name.removeprefix("step-")))
