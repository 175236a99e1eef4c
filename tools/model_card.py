"""Release a trained run as a model folder: bf16 weights, tokenizer, log, curve, and a card of computed numbers.

    python tools/model_card.py RUN llama_from_scratch/models/Folio-5M --hardware "one thread of …"
    python tools/model_card.py --again llama_from_scratch/models/Folio-5M     the card alone, from what lies there

The numbers of the card come from the log, the recipe and an evaluation of the released weights on each held-out work.
Only the hardware is typed in; it is kept in recipe.json.
"""

from __future__ import annotations

import argparse
import bz2
import json
import shutil
from dataclasses import MISSING, fields
from math import log
from pathlib import Path

import torch

from llama_from_scratch import Llama
from llama_from_scratch.checkpoint import load_model
from llama_from_scratch.checkpoint.huggingface.write import save_huggingface
from llama_from_scratch.checkpoint.stored import in_memory
from llama_from_scratch.cli.options import option
from llama_from_scratch.generation import Sampling, evaluate, generate
from llama_from_scratch.tokenizer import Tokenizer, load_tokenizer
from llama_from_scratch.training import Recipe
from llama_from_scratch.training.corpora import CORPORA, corpus_texts
from llama_from_scratch.training.log import read_log
from llama_from_scratch.training.tokens import facts

CARD = """\
# {name}

A small Llama that this project trained from random weights on Shakespeare and the World English Bible, so that chapters
and tests have a real model of their own: it loads in a moment, needs no network, and everything about its making is
known. It writes recognisable English in the manner of what it read. It knows nothing about the world, follows no
instructions, and says whatever such texts may say: use it for nothing but learning how a Llama works.

```python
from llama_from_scratch import Llama
from llama_from_scratch.tokenizer import load_tokenizer

model, tok = Llama.from_pretrained("{name}"), load_tokenizer("{name}")
```

This page was written by `tools/model_card.py` from `recipe.json`, `log.jsonl` and the released weights beside it.

## The model

{shape}

## The data

{sources}

The packages are read, never installed or run. {train_works} works with {train_mb:.2f} MB were trained on,
{train_tokens:,} tokens; {held_works} works with {held_mb:.2f} MB were not. The tokenizer, too, was learned from the
training works only.

## How it was trained

```bash
{command}
```

Seed {recipe[seed]}, {recipe[precision]}. AdamW with β of 0.9 and 0.95, weight decay {recipe[weight_decay]} on matrices
only, gradients clipped to a norm of {recipe[clip]}, batches of {windows} windows of {recipe[context]} tokens. The
learning rate grows to {recipe[learning_rate]} in {recipe[warmup]} steps{fall}.

{steps:,} steps read {tokens:,} tokens, {epochs:.1f} times the training text, in {hours:.1f} hours on {hardware}:
{speed:,.0f} tokens a second, while other programs ran beside it. Versions: {versions}.

![Loss against tokens read: the training text, and the held-out works.](curve.svg)

{looks}

## Held-out works

Whole works that it never saw, predicted by the released bf16 weights computed in fp32, in windows of {window} tokens
with a stride of {stride}. Bits a byte can be compared with models of other vocabularies. The last column is what bz2
needs for the same text by itself.

{results}

## Samples, as they came out

While it was trained, at temperature {temperature} and top-p {top_p}, from the start of a document:

{early}

From the released weights, by the same rule, {new_tokens} tokens; the first that came, not the best of several:

{late}

## Licence

The weights are released under Apache-2.0, like the rest of this project.
"""

PROMPTS = (("", 1), ("ROMEO.\n", 2), ("In the beginning", 3), ("The king", 4))  # and the seed of each
SAMPLE = {"temperature": 0.8, "top_p": 0.95}
NEW_TOKENS = 120


def release(run: Path, target: Path, hardware: str) -> None:
    """Write the model folder, except for card and curve."""
    save_huggingface(in_memory(load_model(run)), target, "BF16", tokenizer=load_tokenizer(run), overwrite=True)
    shutil.copyfile(run / "log.jsonl", target / "log.jsonl")
    about = json.loads((run / "run.json").read_text(encoding="utf-8"))
    about |= {"hardware": hardware, "data": {}}
    for part, found in facts(run / "data").items():
        documents = found["documents"]
        about["data"][part] = {key: sum(d[key] for d in documents) for key in ("bytes", "tokens")}
        about["data"][part]["works"] = [document["name"] for document in documents]
    (target / "recipe.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def command(recipe: dict) -> str:
    """The command that trains it, with the settings that are not defaults."""
    words = ["python -m llama_from_scratch train", *recipe["data"], "--out runs/folio"]
    for field in fields(Recipe):
        default = None if field.default is MISSING else field.default
        value = recipe[field.name]
        if field.name != "data" and value != default:
            words.append(f"{option(field.name)} {value}")
    return " ".join(words)


def curve(records: list[dict], path: Path) -> None:
    """Write training loss (each step, and smoothed) and held-out loss as an SVG, byte for byte the same each time."""
    import matplotlib as mpl

    from llama_from_scratch.plots.style import COLOUR, use_style

    mpl.use("svg")
    import matplotlib.pyplot as plt

    use_style()
    steps = [r for r in records if r["kind"] == "step"]
    held_out = [r for r in records if r["kind"] == "held_out"]
    smooth, mean = [], steps[0]["loss"]
    for record in steps:
        mean += (record["loss"] - mean) / min(50, record["step"])  # over about the last 50 steps
        smooth.append(mean)
    tokens = [r["tokens"] / 1e6 for r in steps]
    each = tokens[0]
    figure, axes = plt.subplots()
    axes.plot(tokens, [r["loss"] for r in steps], color=COLOUR["faint"], linewidth=0.6)
    axes.plot(tokens, smooth, color=COLOUR["theory"])
    axes.plot([r["step"] * each for r in held_out], [r["loss"] for r in held_out], "o-", color=COLOUR["real"], ms=4)
    axes.annotate(
        "training text", (tokens[-1], smooth[-1]), (-4, -18), textcoords="offset points", ha="right", color="#2D7FB5"
    )
    last = held_out[-1]
    axes.annotate(
        "held-out works", (last["step"] * each, last["loss"]), (-4, 14), textcoords="offset points", ha="right"
    )
    axes.set(xlabel="tokens read (millions)", ylabel="loss (nats a token)", ylim=(2.5, 8.5), title="Folio-5M learns")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def held_out_rows(model: Llama, tokenizer: Tokenizer, corpora: list[str]) -> list[tuple]:
    """Name, bytes, tokens, nats and, for comparison, bytes after bz2, of each held-out work and of all together."""
    rows, window = [], model.config.max_seq_len
    for corpus in corpora:
        texts = corpus_texts(corpus)
        for work in CORPORA[corpus].held_out:
            ids = [tokenizer.eos_id, *tokenizer.encode(texts[work])]  # so that the first token is predicted as well
            found = evaluate(model, ids, window, window // 2)
            raw = texts[work].encode()
            rows.append((f"{corpus}/{work}", len(raw), found.n_tokens, found.nats, len(bz2.compress(raw))))
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, 5))))
    return rows


def sample(model: Llama, tokenizer: Tokenizer, prompt: str, seed: int) -> str:
    ids = tokenizer.encode(prompt) or [tokenizer.eos_id]
    rule = Sampling(**SAMPLE, seed=seed)
    return prompt + tokenizer.decode(generate(model, ids, NEW_TOKENS, rule, {tokenizer.eos_id}))


def table(head: str, rows: list[tuple[str, ...]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def quoted(text: str) -> str:
    return f"```text\n{text.strip(chr(10))}\n```"


def card(folder: Path) -> str:
    about = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
    recipe, data = about["recipe"], about["data"]
    train, held_out = data["train"], data["held_out"]
    records = list(read_log(folder / "log.jsonl"))
    model, tokenizer = load_model(folder, dtype=torch.float32), load_tokenizer(folder)
    config, window = model.config, model.config.max_seq_len
    last = [r for r in records if r["kind"] == "step"][-1]
    samples = [r for r in records if r["kind"] == "sample"]

    shape = [
        ("parameters", f"{config.n_params:,}; the embedding table, which is also the output projection, counts once"),
        ("layers, width, feed-forward", f"{config.n_layers}, {config.dim}, {config.ffn_dim}"),
        ("query heads over key/value heads", f"{config.n_heads} over {config.n_kv_heads}, {config.head_dim} wide"),
        ("vocabulary", f"{config.vocab_size:,}, byte-level BPE, learned from the training text"),
        ("context", f"{window} tokens; RoPE with base {config.rope_theta:,.0f}, not scaled"),
        ("file", f"model.safetensors, bf16, {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB"),
    ]
    sources = []
    for name in recipe["data"]:
        corpus = CORPORA[name]
        works = sum(work.startswith(name + "/") for part in data.values() for work in part["works"])
        package = f"{corpus.package} {corpus.version}"
        held = ", ".join(corpus.held_out)
        sources.append((f"`{name}`: {corpus.title}", package, corpus.licence, str(works), held, f"`{corpus.sha256}`"))
    results = []
    for work, n_bytes, n_tokens, nats, squeezed in held_out_rows(model, tokenizer, recipe["data"]):
        bits = (f"{nats / log(2) / n_bytes:.3f}", f"{8 * squeezed / n_bytes:.3f}")
        results.append((work, f"{n_bytes:,}", f"{n_tokens:,}", f"{nats / n_tokens:.4f}", *bits))
    looks = [(f"{r['step']:,}", f"{r['loss']:.4f}") for r in records if r["kind"] == "held_out"]
    early = [samples[i] for i in sorted({0, len(samples) // 2, len(samples) - 1})]

    return CARD.format(
        name=folder.name,
        shape=table("what | value", shape),
        sources=table("corpus | package | licence, as the package states it | works | held out | sha256", sources),
        train_mb=train["bytes"] / 1e6,
        train_works=len(train["works"]),
        train_tokens=train["tokens"],
        held_mb=held_out["bytes"] / 1e6,
        held_works=len(held_out["works"]),
        command=command(recipe),
        recipe=recipe,
        windows=recipe["batch_size"] * recipe["accumulate"],
        fall=f" and falls to {recipe['final_learning_rate']:.0%} of that in the last {recipe['decay']} steps"
        if recipe["schedule"] == "wsd"
        else f" and falls to {recipe['final_learning_rate']:.0%} of that along a cosine",
        steps=last["step"],
        tokens=last["tokens"],
        epochs=last["tokens"] / train["tokens"],
        hours=last["seconds"] / 3600,
        hardware=about["hardware"],
        speed=last["tokens"] / last["seconds"],
        versions=", ".join(f"{key} {value}" for key, value in about["versions"].items() if key != "machine"),
        looks=table("step | held-out loss (nats a token)", looks),
        window=window,
        stride=window // 2,
        results=table("work | bytes | tokens | nats a token | bits a byte | bz2, bits a byte", results),
        early="\n\n".join(f"Step {r['step']:,}, seed {r['seed']}:\n\n{quoted(r['text'])}" for r in early),
        new_tokens=NEW_TOKENS,
        late="\n\n".join(
            f"Prompt {prompt!r}, seed {seed}:\n\n{quoted(sample(model, tokenizer, prompt, seed))}"
            for prompt, seed in PROMPTS
        ),
        **SAMPLE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", help="the run folder; leave it out with --again")
    parser.add_argument("target", type=Path, help="the model folder")
    parser.add_argument("--hardware", help="in words, for the card")
    parser.add_argument("--again", action="store_true", help="write card and curve again from the model folder")
    arguments = parser.parse_args()
    if not arguments.again:
        if arguments.run is None or arguments.hardware is None:
            parser.error("give RUN, TARGET and --hardware; or --again and TARGET")
        arguments.target.parent.mkdir(parents=True, exist_ok=True)
        release(arguments.run, arguments.target, arguments.hardware)
    curve(list(read_log(arguments.target / "log.jsonl")), arguments.target / "curve.svg")
    (arguments.target / "MODEL_CARD.md").write_text(card(arguments.target), encoding="utf-8")


if __name__ == "__main__":
    main()
