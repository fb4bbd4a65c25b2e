"""Writes mamlrl/supervised/glyphs.txt: which characters of matplotlib's fonts are distinct, and which faces have them.

    python benchmarks/list_glyphs.py                              # writes the list
    python benchmarks/list_glyphs.py --sheet docs/img/glyphs.png  # a contact sheet of what is drawn

Letters and numerals in at least two faces, stable under NFKD, not blank. Of characters that look alike (correlation
above 0.9 in the first face) one is kept, of the test scripts first.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

import numpy as np
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageFont

from mamlrl.supervised.glyphs import MASTER, SPLITS, font_files, images, master

HELD_OUT = {
    "test": ("GEORGIAN", "ARMENIAN", "HEBREW", "NKO", "LAO"),
    "validation": ("OGHAM", "OLD ITALIC", "TIFINAGH", "LISU"),
}
LEFT_OUT = ("DINGBAT",)
ALIKE = 0.9


def split_of(code: int) -> str:
    """By script, the first words of the character's name."""
    name = unicodedata.name(chr(code), "")
    return next((split for split, scripts in HELD_OUT.items() if name.startswith(scripts)), "train")


def main() -> None:
    """Write the list, or the contact sheet."""
    parser = argparse.ArgumentParser(description="Characters of matplotlib's fonts.")
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="Picture of some characters by all drawers.")
    options = parser.parse_args()
    if options.sheet:
        contact_sheet().save(options.sheet)
    else:
        write_list()


def contact_sheet(rows: int = 12) -> Image.Image:
    """Some characters of all splits, a row each, by all drawers."""
    drawn = images()
    numbers = np.linspace(0, len(drawn) - 1, rows).round().astype(int)
    sheet = np.concatenate([np.concatenate(list(255 - drawn[number]), axis=1) for number in numbers])
    return Image.fromarray(sheet)


def write_list() -> None:
    """Find the characters and write them."""
    files = font_files()
    maps = [set(FT2Font(str(path)).get_charmap()) for path in files]
    fonts = [ImageFont.truetype(str(path), MASTER) for path in files]
    found = [
        code
        for code in sorted(set.union(*maps))
        if unicodedata.category(chr(code))[0] in "LN"
        and unicodedata.normalize("NFKD", chr(code)) == chr(code)
        and not unicodedata.name(chr(code), "").startswith(LEFT_OUT)
        and sum(code in one for one in maps) >= 2
    ]
    order = sorted(found, key=lambda code: (-SPLITS.index(split_of(code)), code))  # test scripts first
    kept: list[int] = []
    pictures = np.zeros((0, (MASTER // 4) ** 2))
    for code in order:
        first = next(font for font, one in zip(fonts, maps, strict=True) if code in one)
        drawn = master(first, code)
        picture = drawn.reshape(MASTER // 4, 4, MASTER // 4, 4).mean((1, 3)).ravel()
        if not picture.any():
            continue
        picture = (picture - picture.mean()) / np.linalg.norm(picture - picture.mean())
        if len(kept) and (pictures @ picture).max() > ALIKE:
            continue
        kept.append(code)
        pictures = np.vstack([pictures, picture])
    lines = ["# Code points and the faces that have them, bits in the order of glyphs.FACES; by split, hexadecimal."]
    for split in SPLITS:
        rows = sorted(code for code in kept if split_of(code) == split)
        print(split, len(rows))
        lines.append(f"[{split}]")
        lines += [f"{code:04x} {sum((code in one) << n for n, one in enumerate(maps)):04x}" for code in rows]
    Path(__file__).parents[1].joinpath("mamlrl/supervised/glyphs.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
