"""Pictures side by side, all as high as the first: the README's overview.

python benchmarks/side_by_side.py curves.png frame.png --out overview.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError


def main(argv: Sequence[str] | None = None) -> int:
    """Join what the command line says; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PNG")
    parser.add_argument("--out", required=True, type=Path, metavar="PNG")
    arguments = parser.parse_args(argv)
    try:
        pictures = [Image.open(path).convert("RGB") for path in arguments.pictures]
        height = pictures[0].height
        pictures = [picture.resize((picture.width * height // picture.height, height)) for picture in pictures]
        joined = Image.new("RGB", (sum(picture.width for picture in pictures), height))
        for number, picture in enumerate(pictures):
            joined.paste(picture, (sum(before.width for before in pictures[:number]), 0))
        joined.save(arguments.out)
    except (UnidentifiedImageError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
