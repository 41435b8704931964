"""Synthetic films for segments: what is shown when, how it is sampled, which frames match.

A film is a list of clips, each a stretch of some source at some speed. A source is cut into scenes;
within one, frames match while they show it less than `reach` apart: for ever in a still.
"""

from typing import NamedTuple

import numpy as np

from nearsearch.segments import FrameMatches

STILL = 10**9
BLACK = -1


class Clip(NamedTuple):
    """From `start` until `end` (ms of the source), shown `speed` times as fast."""

    source: int
    start: int
    end: int
    speed: float = 1.0

    @property
    def length(self):
        return (self.end - self.start) / self.speed


class Frame(NamedTuple):
    start: int
    end: int
    source: int
    scene: int
    at: float
    reach: float


def scenes(source, shortest=2000, longest=8000, stills=0.2, until=4_000_000):
    """Ends and reaches of the scenes of a source; always the same ones."""
    rng = np.random.default_rng(1000 + source)
    n = 2 * until // (shortest + longest)
    ends = np.cumsum(rng.integers(shortest, longest, n))
    return ends, np.where(rng.random(n) < stills, STILL, rng.uniform(400, 1600, n))


def length(film):
    return round(sum(clip.length for clip in film))


def sampled(film, *, phase=0.0, runs=True, step=1000, **kinds):
    """The frames at each `step` and each cut; with `runs`, equal ones in a row are one."""
    frames, began = [], 0.0
    for clip in film:
        ends, reaches = (
            (np.zeros(0), None) if clip.source == BLACK else scenes(clip.source, **kinds)
        )
        until = began + clip.length
        first = began + (phase - began) % step
        cuts = began + (ends - clip.start) / clip.speed
        times = [began, *np.arange(first, until, step), *cuts[(cuts > began) & (cuts < until)]]
        last = -1000.0
        for time in sorted(times):
            if time - last < 250:
                continue
            last = time
            at = clip.start + (time - began) * clip.speed
            scene = int(np.searchsorted(ends, at + 1e-6, "right"))
            reach = STILL if reaches is None else reaches[scene]
            frames.append((time, clip.source, scene, at, reach))
        began = until
    stops = [time for time, *_ in frames[1:]] + [began]
    out = []
    for (time, source, scene, at, reach), stop in zip(frames, stops, strict=True):
        if runs and reach == STILL and out and (out[-1].source, out[-1].scene) == (source, scene):
            out[-1] = out[-1]._replace(end=round(stop))
        else:
            out.append(Frame(round(time), round(stop), source, scene, at, reach))
    return out


def matched(
    query_film, item_film, *, query=0, item=0, seed=0, dropout=0.0, phase=370.0, runs=True, **kinds
):
    """All matches of one film with another, of which `dropout` query frames found nothing."""
    rng = np.random.default_rng(seed)
    asked = sampled(query_film, runs=False, **kinds)
    known = sampled(item_film, phase=phase, runs=runs, **kinds)
    rows = []
    for q in asked:
        if rng.random() < dropout:
            continue
        for k in known:
            if (q.source, q.scene) == (k.source, k.scene) and abs(q.at - k.at) < q.reach:
                rows.append((query, item, q.start, q.end, k.start, k.end, rng.integers(0, 32)))
    return table(rows, length(query_film), length(item_film))


def table(rows, query_ms, item_ms):
    """Matches of rows (query, item, query start and end, item start and end, distance)."""
    columns = np.array(rows, np.int64).reshape(-1, 7).T
    lengths = (np.full(len(rows), ms, np.int64) for ms in (query_ms, item_ms))
    return FrameMatches(*columns[:6], columns[6].astype(np.uint16), *lengths)


def noise(rng, n, query_ms, item_ms, n_items=1, query=0):
    """Matches of any frame of a query with any row of any item, spread evenly."""
    start, other = rng.integers(0, query_ms // 1000, n), rng.integers(0, item_ms // 1000, n)
    item = rng.integers(0, n_items, n)
    ends = start * 1000, start * 1000 + 1000, other * 1000, other * 1000 + 1000
    rows = np.column_stack([np.full(n, query), item, *ends, rng.integers(0, 32, n)])
    return table(rows, query_ms, item_ms)


def together(*parts):
    return FrameMatches(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def shuffled(matches, seed=0):
    order = np.random.default_rng(seed).permutation(len(matches.query))
    return FrameMatches(*(column[order] for column in matches))
