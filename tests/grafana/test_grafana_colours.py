"""Colours that mean different things differ for colour-blind people, too."""

from __future__ import annotations

import itertools

import pytest
from generator import style

Rgb = tuple[float, float, float]

#: Linear RGB as a person with full dichromacy sees it: Machado, Oliveira and Fernandes, 2009, severity 1.0.
VISION: dict[str, tuple[Rgb, Rgb, Rgb]] = {
    "full": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
SETS = {
    "tiles": (style.FINE, style.WARN, style.ALARM, style.DONE, style.IDLE),
    "marks": (style.GOOD, style.LOOK, style.ACT),
    "lines": (style.MAIN, style.SECOND, style.THIRD),
}
#: In CIELAB; about 2 is the least that can be seen side by side.
DIFFERENCE = 15.0


def linear(color: str) -> Rgb:
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return red, green, blue


def luminance(color: str) -> float:
    red, green, blue = linear(color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def lab(color: str, vision: str) -> Rgb:
    """CIELAB under D65."""
    seen = [sum(a * b for a, b in zip(row, linear(color), strict=True)) for row in VISION[vision]]
    red, green, blue = (min(1.0, max(0.0, part)) for part in seen)
    x = (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.95047
    y = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    z = (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.08883
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("name", SETS)
def test_colours_differ(name: str, vision: str) -> None:
    for one, other in itertools.combinations(SETS[name], 2):
        pairs = zip(lab(one, vision), lab(other, vision), strict=True)
        assert sum((a - b) ** 2 for a, b in pairs) ** 0.5 >= DIFFERENCE, (one, other)


@pytest.mark.parametrize("color", SETS["tiles"])
def test_text_on_tiles_can_be_read(color: str) -> None:
    """Grafana writes black on colours whose brightness (of 255) is above 180, else white; large text needs 3:1."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    text = "#202226" if 0.299 * red + 0.587 * green + 0.114 * blue > 180 else "#f7f8fa"
    dark, light = sorted((luminance(color), luminance(text)))
    assert (light + 0.05) / (dark + 0.05) >= 3.0
