"""The log as other programs draw it. Each gives a function that takes a record."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from .log import Record
from .run import Run

Track = Callable[[Record], None]


@contextmanager
def tensorboard(run: Run) -> Iterator[Track]:
    """Event files in the run's folder tensorboard/. Steps that were never saved are struck out when a run goes on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("--tensorboard needs the package tensorboard; run: pip install tensorboard") from None
    writer = None

    def track(record: Record) -> None:
        nonlocal writer
        step, kind = record["step"], record["kind"]
        if writer is None:  # not earlier: a process that is refused the run would strike out what another one writes
            writer = SummaryWriter(run.folder / "tensorboard", purge_step=step)
        if kind == "sample":
            writer.add_text("sample", record["text"], step)
        for name, value in _numbers(record).items():
            writer.add_scalar(f"{kind}/{name}", value, step)

    try:
        yield track
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def weights_and_biases(run: Run, project: str) -> Iterator[Track]:
    """A run of Weights & Biases with the name of the folder; it goes on in the same one.

    It drops records of a step below the last that it has seen. A run that was killed repeats the steps since its last
    save, so of those the curves show what the killed process did.
    """
    try:
        import wandb
    except ImportError:
        raise ImportError("--wandb needs the package wandb; run: pip install wandb") from None
    name, tracker = run.folder.resolve().name, None
    with ExitStack() as stack:

        def track(record: Record) -> None:
            nonlocal tracker
            if tracker is None:  # not earlier: a process that is refused the run would open another one's
                settings = asdict(run.recipe)
                opened = wandb.init(project=project, name=name, id=name, resume="allow", config=settings)
                tracker = stack.enter_context(opened)
            numbers = _numbers(record)
            tracker.log({f"{record['kind']}/{name}": value for name, value in numbers.items()}, step=record["step"])

        yield track


def _numbers(record: Record) -> dict[str, float]:
    return {name: value for name, value in record.items() if name not in ("kind", "step", "seed", "text")}
