"""What all tests share: shapes checked at run time, the embedded model read by us and by transformers, a fixed text."""

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook
from places import DATA

# From here on every call of the package in this process checks the shapes and types in its signatures.
# It works on import, so it has to come before the first one.
install_import_hook("llama_from_scratch", "beartype.beartype")
pytest.register_assert_rewrite("reference")

from llama_from_scratch import Llama  # noqa: E402
from llama_from_scratch.files.embedded import EMBEDDED, embedded_path  # noqa: E402

if "OMP_NUM_THREADS" not in os.environ:  # the workers of pytest-xdist share the cores
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))

# The same examples every time, and no time limit for one: this may be a busy machine.
settings.register_profile("project", derandomize=True, deadline=None)
settings.load_profile("project")


@pytest.fixture(autouse=True)
def seed() -> None:
    """The same random numbers for a test, whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture
def as_users_run_it():
    """Without the check of types and shapes, which would hide what the package itself says about a wrong one."""
    jaxtyping_config.update("jaxtyping_disable", True)
    yield
    jaxtyping_config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def smollm2() -> Llama:
    """The embedded model as the package loads it, in fp32. Shared by many tests: do not change it."""
    return Llama.from_pretrained(EMBEDDED, dtype=torch.float32)


@pytest.fixture(scope="session")
def hf_smollm2(request):
    """The embedded model as transformers' own GGUF loader reads it (fp32, eager attention). Shared: do not change it.

    The loader takes most of a minute, so what it made is kept in pytest's cache directory, in safetensors, under the
    hash of the file and the version of transformers. None of our code takes part. `pytest --cache-clear` forgets it.
    """
    import transformers
    from filelock import FileLock

    transformers.utils.logging.disable_progress_bar()
    load = transformers.AutoModelForCausalLM.from_pretrained
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    file = embedded_path()
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    folder = Path(request.config.cache.mkdir("hf-smollm2")) / f"{digest}-transformers-{transformers.__version__}"
    with FileLock(f"{folder}.lock"):  # one worker reads the GGUF file, the others wait for what it made
        if not folder.exists():
            unfinished = Path(f"{folder}.{os.getpid()}")
            model = load(file.parent, gguf_file=file.name, **options)
            model.hf_quantizer = None  # its weights are plain fp32 by now; transformers would refuse to save them
            del model.config.quantization_config
            model.save_pretrained(unfinished)
            unfinished.rename(folder)
    return load(folder, **options).eval()


@pytest.fixture(scope="session")
def fixed_text() -> str:
    """One paragraph of plain English."""
    return _fixed_text()["text"]


@pytest.fixture(scope="session")
def fixed_ids() -> list[int]:
    """The paragraph as token ids of the embedded model, made by the tokenizer of transformers."""
    return _fixed_text()["ids"]


def _fixed_text() -> dict:
    return json.loads((DATA / "fixed_text.json").read_text(encoding="utf-8"))
