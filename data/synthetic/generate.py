"""Write the committed sample corpus again: `python data/synthetic/generate.py [--out DIR]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from nearsearch.synthetic import VERSION, write_corpus

N_PICTURES = 16
SEED = 2025
WIDTH, HEIGHT = 256, 192
ALTERATIONS = [
    "jpeg-30",
    "resize-50",
    "blur-2",
    "noise-10",
    "brightness+20",
    "gamma-1.5",
    "watermark-12",
    "crop-2",
    "border-5",
    "flip",
]


def main() -> None:
    """Generate the sample and say what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "sample", metavar="DIR")
    out = parser.parse_args().out
    files = write_corpus(
        out, n_pictures=N_PICTURES, seed=SEED, width=WIDTH, height=HEIGHT, alterations=ALTERATIONS
    )
    size = sum((out / file.file).stat().st_size for file in files)
    print(f"{len(files)} files, {size / 1e6:.1f} MB, generator version {VERSION}, in {out}")


if __name__ == "__main__":
    main()
