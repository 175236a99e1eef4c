"""The figure that the reader drags in the chapter on grouped-query attention shows the package's numbers."""

import math
from dataclasses import replace

import pytest
import torch
from web import PHONE, tab

from llama_from_scratch import PRESETS, KVCache

pytestmark = pytest.mark.browser
PAGE = "notebooks/08_grouped_query_attention.html"


@pytest.fixture
def widget(page, site):
    page.goto(f"{site}/{PAGE}")
    return page.locator("lfs-gqa")


def choose(widget, preset: str) -> None:
    widget.locator("select[name=preset]").select_option(preset)


def move(widget, name: str, value: int) -> None:
    """Walk the slider with the keyboard until it says `value`, as a reader without a mouse would."""
    widget.locator("details").evaluate("d => d.open = true")
    slider = widget.locator(f"input[name={name}]")
    slider.press("Home")
    wanted = f"{value:,}"
    for _ in range(130):
        if slider.locator("xpath=following-sibling::output").inner_text() == wanted:
            return
        slider.press("ArrowRight")
    raise AssertionError(f"{name} never showed {wanted}")


def value(widget, which: str) -> float:
    return float(widget.locator(f"[data-id={which}]").get_attribute("data-value"))


def check(widget, config, tokens: int, batch: int, number: int) -> None:
    dtype = {4: torch.float32, 2: torch.bfloat16, 1: torch.int8}[number]
    cache = KVCache(config, batch, tokens, dtype, "meta").n_bytes
    projection = config.dim * config.head_dim * config.n_layers
    assert value(widget, "cache") == cache
    assert value(widget, "token") == cache / tokens / batch
    assert value(widget, "params") == config.n_params
    assert value(widget, "q") == projection * config.n_heads
    assert value(widget, "k") == projection * config.n_kv_heads
    looked_up = 0 if config.tie_embeddings else config.vocab_size * config.dim
    step = (config.n_params - looked_up) * number + cache
    assert value(widget, "read") == pytest.approx(step / batch)
    gpus = math.ceil((config.n_params * number + cache) / 80e9)
    assert value(widget, "rate") == pytest.approx(gpus * 3.35e12 / step)
    assert ("80 GB (the line)" in widget.locator(".gqa-fit").inner_text()) == (gpus > 1)
    assert widget.locator("[data-id=token]").inner_text() == f"{cache // tokens // batch:,} B"
    shown = widget.locator("[data-id=cache]").inner_text().split()
    assert float(shown[0]) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[shown[1]] == pytest.approx(cache, rel=0.006)


def joins(widget) -> list[int]:
    """The key/value head that each query head's line ends at."""
    return [int(x.get_attribute("data-to")) for x in widget.locator("line").all()]


def test_every_preset_counts_as_the_package_does(widget):
    names = widget.locator("select[name=preset] option").all_inner_texts()
    assert len(names) >= 8 and names[-1] == "your own"
    for name in names[:-1]:
        choose(widget, name)
        config = PRESETS[name]
        check(widget, config, min(config.max_seq_len, 8192), 16, 2)  # the load stays when the model changes
        assert joins(widget) == [h // config.group_size for h in range(config.n_heads)]


def test_the_sliders_count_as_the_package_does(widget):
    choose(widget, "Llama-3-70B")
    move(widget, "n_kv_heads", 16)
    move(widget, "context", 32768)
    move(widget, "batch", 32)
    config = replace(PRESETS["Llama-3-70B"], n_kv_heads=16)
    check(widget, config, 32768, 32, 2)
    assert "too much for one GPU" in widget.locator(".gqa-fit").inner_text()
    widget.locator("select[name=precision]").select_option("1")
    check(widget, config, 32768, 32, 1)
    move(widget, "n_layers", 9)
    move(widget, "head_dim", 64)
    config = replace(config, n_layers=9, head_dim=64, dim=64 * 64)
    check(widget, config, 32768, 32, 1)
    assert widget.locator("select[name=preset]").input_value() == "your own"


def test_key_value_heads_always_divide_the_heads(widget):
    choose(widget, "Llama-3-8B")
    for heads in (9, 28, 4, 128):
        move(widget, "n_heads", heads)
        kv_heads = int(widget.locator("input[name=n_kv_heads] + output").inner_text())
        assert heads % kv_heads == 0
        assert joins(widget) == [h // (heads // kv_heads) for h in range(heads)]


def test_one_head_can_be_asked(widget):
    choose(widget, "SmolLM2-135M")
    assert widget.locator(".gqa-queries").inner_text() == "9 query heads"
    assert widget.locator(".gqa-keys").inner_text() == "3 key heads"
    move(widget, "head", 7)
    assert "Query head 7 reads key/value head 7 // 3 = 2" in widget.locator(".gqa-reads").inner_text()
    widget.locator("[data-head='3']").click()
    assert "Query head 3 reads key/value head 3 // 3 = 1" in widget.locator(".gqa-reads").inner_text()


def test_the_load_stays_when_the_model_changes(widget):
    move(widget, "batch", 4)
    move(widget, "context", 32768)
    choose(widget, "Llama-2-7B")  # reads 4096 at most
    check(widget, PRESETS["Llama-2-7B"], 4096, 4, 2)
    choose(widget, "Llama-3.2-1B")
    check(widget, PRESETS["Llama-3.2-1B"], 32768, 4, 2)


def test_on_a_phone_nothing_sticks_out(browser, site):
    with tab(browser, PHONE) as (page, log):
        page.goto(f"{site}/{PAGE}")
        box = page.locator("lfs-gqa .lfs-widget").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= page.viewport_size["width"]
        assert page.locator("lfs-gqa").evaluate("e => e.scrollWidth <= e.clientWidth + 1 || e.clientWidth === 0")
        page.locator("[data-head='3']").tap()
        assert "Query head 3 reads" in page.locator(".gqa-reads").inner_text()
        assert not log.all()
