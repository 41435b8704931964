"""Fit what `nearsearch.corpora` draws codes with, and say how well it fits.

    python data/synthetic/fit.py --codes real_codes.npz [--array pdq] [--write] [--held-out]

Prints a table of errors against the real codes; `--write` replaces src/nearsearch/corpora.npz.
`--held-out` fits to one half of the codes and compares with the other.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from nearsearch import corpora
from nearsearch.kernels import corpora as kernels

RELATED = 64  # bits: a code this near to an earlier one shows the same picture, and is left out
COLUMN_SHARE = 1 / 4  # of columns that a code takes from a layout
N_LAYOUTS = 256
RIDGE, SMALLEST = 0.02, 0.15  # in variances of a bit
ROUNDS, STEP, DRAWN = 5, 0.6, 400_000


def distinct(codes: np.ndarray) -> np.ndarray:
    """Return the codes that are not within `RELATED` bits of an earlier one."""
    words = np.ascontiguousarray(codes).view(np.uint64)
    kept = np.ones(len(words), bool)
    for start in range(0, len(words), 250):
        near = _distances(words[start : start + 250], words[: start + 250]) <= RELATED
        kept[start : start + 250] = ~np.tril(near, start - 1).any(axis=1)
    return codes[kept]


def moments(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of the bits and their covariances."""
    mean, products = np.zeros(256), np.zeros((256, 256))
    for start in range(0, len(codes), 50_000):
        bits = np.unpackbits(codes[start : start + 50_000], axis=1).astype(np.float32)
        mean += bits.sum(axis=0)
        products += bits.T @ bits
    mean /= len(codes)
    return mean, products / len(codes) - np.outer(mean, mean)


def fit(codes: np.ndarray, column_share: float, n_layouts: int) -> corpora.Fit:
    """Return what draws codes with the means and, as far as eight parents can, covariances.

    What layouts and balancing change is undone by rounds of drawing and correcting the targets.
    """
    mean, covariance = moments(codes)
    # Two bits of one column come from one code; of two columns, with this probability.
    together = column_share**2 + (1 - column_share) ** 2 if n_layouts else 1
    column = np.arange(256) % 16
    column = column - (column & 2)  # those two apart go together
    is_column = column[:, None] == column
    goal, aim = mean.copy(), np.where(is_column, covariance, covariance / together)
    aim = possible(aim)
    parents = choose_parents(aim)
    found = solve(goal, aim, parents, n_layouts)
    for number in range(ROUNDS):
        drawn_mean, drawn = moments(draw(found, DRAWN, seed=number))
        goal += mean - drawn_mean
        aim = possible(aim + STEP * (covariance - drawn))
        found = solve(goal, aim, parents, n_layouts)
    return found


def possible(covariance: np.ndarray) -> np.ndarray:
    """Return the covariances of bits near these that no combination of bits contradicts."""
    scale = 0.5 / np.sqrt(np.diag(covariance))
    values, vectors = np.linalg.eigh(covariance * np.outer(scale, scale))
    fixed = (vectors * np.maximum(values, SMALLEST / 4)) @ vectors.T
    scale = 0.5 / np.sqrt(np.diag(fixed))
    return fixed * np.outer(scale, scale)


def choose_parents(covariance: np.ndarray) -> np.ndarray:
    """Return the earlier bits with the greatest weights in a regression on all of them."""
    parents = np.zeros((256, kernels.PARENTS), np.uint8)
    for i in range(1, 256):
        system = covariance[:i, :i] + RIDGE / 4 * np.eye(i)
        weights = np.linalg.solve(system, covariance[:i, i])
        chosen = np.sort(np.argsort(-abs(weights))[: kernels.PARENTS])
        parents[i, : len(chosen)] = chosen
    return parents


def solve(
    mean: np.ndarray, covariance: np.ndarray, parents: np.ndarray, n_layouts: int
) -> corpora.Fit:
    """Return the regression of each bit on its parents, in the units of the kernel."""
    weights, base = np.zeros(parents.shape), np.zeros(256)
    for i in range(256):
        n = min(i, kernels.PARENTS)
        mine = parents[i, :n].astype(int)
        system = covariance[np.ix_(mine, mine)] + RIDGE / 4 * np.eye(n)
        weights[i, :n] = np.linalg.solve(system, covariance[mine, i])
        base[i] = mean[i] - weights[i, :n] @ mean[mine]
    reach = base + np.maximum(weights, 0).sum(axis=1), base + np.minimum(weights, 0).sum(axis=1)
    assert reach[0].max() < 1.99, "sums would not fit 16 bits"
    assert reach[1].min() > -1.99, "sums would not fit 16 bits"
    scaled = (np.round(kernels.ONE * values).astype(np.int16) for values in (base, weights))
    new_base, new_weights = scaled
    return corpora.Fit(new_base, parents, new_weights, n_layouts)


def draw(found: corpora.Fit, count: int, seed: int) -> np.ndarray:
    """Return new codes, (count, 32) uint8."""
    shared = corpora.draw_layouts(found)
    return corpora.draw(found, np.uint64(seed + 1), count, shared).view(np.uint8)


def errors(codes: np.ndarray, real: np.ndarray) -> dict[str, str]:
    """Return how far codes are from real ones, by name."""
    mean, covariance = moments(codes)
    real_mean, real_covariance = moments(real)
    above = np.triu_indices(256, 1)
    pairs, real_pairs = (
        (c / np.sqrt(np.outer(np.diag(c), np.diag(c))))[above]
        for c in (covariance, real_covariance)
    )
    strongest = np.argsort(-abs(real_pairs))[:200]
    difference = pairs - real_pairs
    spread = distances(codes)
    return {
        "bit means: greatest error": f"{abs(mean - real_mean).max():.4f}",
        "bit means: mean error": f"{abs(mean - real_mean).mean():.4f}",
        "correlations: rms error": f"{np.sqrt((difference**2).mean()):.4f}",
        "correlations: rms": f"{np.sqrt((pairs**2).mean()):.4f}",
        "200 strongest pairs: rms error": f"{np.sqrt((difference[strongest] ** 2).mean()):.4f}",
        "200 strongest pairs: rms": f"{np.sqrt((pairs[strongest] ** 2).mean()):.4f}",
        "distance: mean": f"{spread.mean():.2f}",
        "distance: standard deviation": f"{spread.std():.3f}",
        **{
            f"pairs within {bits} bits": f"{(spread <= bits).mean():.1e}"
            for bits in (72, 80, 88, 96, 104, 112)
        },
        "128 bits set": f"{(np.bitwise_count(codes).sum(axis=1) == 128).mean():.4f}",
    }


def distances(codes: np.ndarray) -> np.ndarray:
    """Return the distances of some twenty million pairs."""
    words = np.ascontiguousarray(codes[np.random.default_rng(0).permutation(len(codes))[:12_000]])
    words = words.view(np.uint64)
    rows = [_distances(words[i : i + 200], words[i + 200 :]) for i in range(0, 2000, 200)]
    return np.concatenate([row.ravel() for row in rows])


def _distances(these: np.ndarray, those: np.ndarray) -> np.ndarray:
    total = np.zeros((len(these), len(those)), np.uint16)
    for k in range(4):
        total += np.bitwise_count(these[:, k, None] ^ those[None, :, k])
    return total


def main() -> None:
    """Fit, compare, and write if asked to."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--codes", type=Path, required=True, metavar="FILE", help="npz of codes")
    parser.add_argument("--array", default="pdq", help="its array of (n, 32) uint8 (pdq)")
    parser.add_argument("--layouts", type=int, default=N_LAYOUTS, help="a power of 2, or 0")
    parser.add_argument("--held-out", action="store_true", help="compare with the other half")
    parser.add_argument("--write", action="store_true", help=f"replace {corpora.FIT.name}")
    options = parser.parse_args()
    real = distinct(np.load(options.codes)[options.array])
    sys.stderr.write(f"{len(real):,} codes, none within {RELATED} bits of another\n")
    used = real
    if options.held_out:
        real = real[np.random.default_rng(1).permutation(len(real))]
        used, real = real[::2], real[1::2]
    found = fit(used, COLUMN_SHARE, options.layouts)
    drawn = draw(found, DRAWN, seed=ROUNDS)
    columns = {"real": errors(real, real), "drawn": errors(drawn, real)}
    if options.held_out:
        columns["other half"] = errors(used, real)
    print("|  |", " | ".join(columns), "|")
    print("| --- |" + " ---: |" * len(columns))
    for name in columns["real"]:
        print(f"| {name} |", " | ".join(column[name] for column in columns.values()), "|")
    if options.write:
        mean, covariance = moments(real)
        np.savez_compressed(
            corpora.FIT,
            **found._asdict(),
            mean=mean.astype(np.float32),  # what it was fitted to, for tests
            covariance=np.take_along_axis(covariance, found.parents, axis=1).astype(np.float32),
        )
        sys.stderr.write(f"{corpora.FIT.name}: {corpora.FIT.stat().st_size:,} bytes\n")


if __name__ == "__main__":
    main()
