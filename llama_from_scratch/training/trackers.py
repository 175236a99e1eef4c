"""The log in other programs. Each context manager returns a function that takes a record."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict

from .log import Record
from .run import Run

Track = Callable[[Record], None]


@contextmanager
def tensorboard(run: Run) -> Iterator[Track]:
    """Event files in the run's folder tensorboard/. Steps that were not saved are purged when a run is resumed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ImportError("TensorBoard's files need the package tensorboard; run: pip install tensorboard") from None
    writer = None

    def track(record: Record) -> None:
        nonlocal writer
        step, kind = record["step"], record["kind"]
        if writer is None:  # not earlier: a process that is refused the run would purge what another one writes
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
    """A run of Weights & Biases with the name of the folder; a resumed run continues the same one.

    It drops records of a step below its last. A run that was killed repeats the steps since its last save, so for
    those the curves show the values of the killed process.
    """
    try:
        import wandb
    except ImportError:
        raise ImportError("Weights & Biases needs the package wandb; run: pip install wandb") from None
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
