"""The outline of a region along the edges of its pixels, as one polygon."""

import numpy as np


def outline(inside: np.ndarray) -> np.ndarray:
    """The polygon around a region; holes and separate parts hang on it by bridges of no width.

    A pixel is inside the polygon (even-odd rule) exactly where its center is inside the region: every edge of
    the outline lies between pixels, and a bridge, gone there and back, changes nothing.

    Args:
        inside: bool (height, width), not empty.

    Returns:
        int (corners, 2): x and y in pixels; the corner of pixel 0 is at 0.
    """
    loops = _loops(inside)
    path = [*loops[0], loops[0][0]]
    first = path[0]
    for loop in loops[1:]:
        corner = (first[0], loop[0][1])  # upright and level only: both ways round to the same pixels
        path += [corner, *loop, loop[0], corner, first]
    return np.array(path[:-1] if path[-1] == first else path)


def _loops(inside):
    """Closed paths along the edges of pixels, each a list of the corners where it turns."""
    framed = np.pad(inside, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for vertical in (False, True):
        for start, end in _edges(framed.T if vertical else framed):
            if vertical:
                start, end = start[::-1], end[::-1]
            following.setdefault(start, []).append(end)
            following.setdefault(end, []).append(start)
    loops = []
    while following:
        start = min(following)
        loop, place = [start], _leave(following, start)
        while place != start:
            loop.append(place)
            place = _leave(following, place)
        loops.append(loop)
    return loops


def _edges(framed):
    """Straight pieces of the outline along the rows, cut where the outline turns: pairs of (x, y)."""
    changes = framed[1:] != framed[:-1]
    runs = np.diff(np.pad(changes, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    # where a piece goes on but changes sides, another piece crosses it: it is cut there too
    sides = framed[1:, 1:] & changes[:, 1:]
    before = framed[1:, :-1] & changes[:, :-1]
    crossed = changes[:, 1:] & changes[:, :-1] & (sides != before)
    for row in np.flatnonzero(changes.any(axis=1)).tolist():
        starts = np.flatnonzero(runs[row] == 1).tolist() + (np.flatnonzero(crossed[row]) + 1).tolist()
        ends = np.flatnonzero(runs[row] == -1).tolist() + (np.flatnonzero(crossed[row]) + 1).tolist()
        for start, end in zip(sorted(starts), sorted(ends)):
            yield (start - 1, row), (end - 1, row)


def _leave(following, place):
    """Takes an edge away from a corner, in both directions; where it leads."""
    ends = following[place]
    end = ends.pop()
    if not ends:
        del following[place]
    back = following[end]
    back.remove(place)
    if not back:
        del following[end]
    return end
