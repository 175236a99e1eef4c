"""The colours of the figures: letters can be read on white, and signs have one colour map."""

import pytest

from llama_from_scratch.plots import COLOUR, LABEL, SIGNS


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2, "relative luminance")."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(colour: str, ground: str = "#FFFFFF") -> float:
    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_of_known_pairs():
    assert contrast("#000000") == pytest.approx(21)
    assert round(contrast("#777777"), 2) == 4.48  # the classic grey that just fails


@pytest.mark.parametrize("idea", COLOUR)
def test_label_can_be_read_on_white(idea):
    assert contrast(LABEL[idea]) >= 4.5


@pytest.mark.parametrize("idea", sorted(COLOUR.keys() - {"faint", "theory", "normalised", "neutral"}))
def test_line_can_be_seen_on_white(idea):
    assert contrast(COLOUR[idea]) >= 3


def test_every_idea_has_a_label_and_its_own_colour():
    assert LABEL.keys() == COLOUR.keys()
    assert len(set(COLOUR.values())) == len(COLOUR)


def test_signs_go_from_negative_over_white_to_positive():
    ends = [SIGNS(0.0), SIGNS(0.5), SIGNS(1.0)]
    wanted = [COLOUR["negative"], "#FFFFFF", COLOUR["positive"]]
    for rgba, colour in zip(ends, wanted, strict=True):
        exact = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
        assert all(abs(255 * part - whole) < 3 for part, whole in zip(rgba[:3], exact, strict=True))
