"""Distance of every point to its nearest neighbours: an exact k-d tree, built and searched in numba.

The tree is implicit: the middle of a segment of the point order is its root, cut along the segment's widest axis, so
clusters, planes, outliers and duplicates do no harm. O(N log N); 100,000 points take a fraction of a second.
"""

from __future__ import annotations

import numpy as np

from dreamerxl.gaussians.rasterize_cpu import kernel

NEIGHBOURS = 3  # as the original 3D Gaussian splatting takes
STACK = 128  # segments waiting at once: at most one more than the tree is deep


def mean_neighbour_distance(points: np.ndarray) -> np.ndarray:
    """Mean distance [N] of points [N, 3] (float32) to their 3 nearest others; to all others where fewer; 0 for N = 1."""
    points = np.ascontiguousarray(points, np.float32)
    order, axes = np.arange(len(points)), np.zeros(len(points), np.int64)
    build_tree(points, order, axes)
    distances = np.zeros(len(points), np.float32)
    search_tree(points, order, axes, min(NEIGHBOURS, len(points) - 1), distances)
    return distances


@kernel
def build_tree(points, order, axes):
    """Orders the points in place so that every segment's middle splits it; axes [N]: the axis cut at each middle."""
    stack = np.empty((STACK, 2), np.int64)
    stack[0, 0], stack[0, 1] = 0, order.shape[0]
    size = 1
    while size > 0:
        size -= 1
        low, high = stack[size, 0], stack[size, 1]
        if high - low < 2:
            continue
        axis, widest = 0, np.float32(-1)
        for j in range(3):
            least, most = points[order[low], j], points[order[low], j]
            for i in range(low + 1, high):
                value = points[order[i], j]
                least, most = min(least, value), max(most, value)
            if most - least > widest:
                axis, widest = j, most - least
        middle = (low + high) // 2
        left, right = low, high - 1
        while left < right:  # Hoare's selection of the middle
            pivot = points[order[(left + right) // 2], axis]
            i, j = left, right
            while i <= j:
                while points[order[i], axis] < pivot:
                    i += 1
                while points[order[j], axis] > pivot:
                    j -= 1
                if i <= j:
                    order[i], order[j] = order[j], order[i]
                    i += 1
                    j -= 1
            if middle <= j:
                right = j
            elif middle >= i:
                left = i
            else:
                break
        axes[middle] = axis
        stack[size, 0], stack[size, 1] = low, middle
        stack[size + 1, 0], stack[size + 1, 1] = middle + 1, high
        size += 2


@kernel
def search_tree(points, order, axes, wanted, distances):
    """Mean distance of every point to its ``wanted`` (at most 3) nearest others, into distances [N]."""
    count = order.shape[0]
    if wanted < 1:
        return
    near = np.empty(3, np.float32)  # squared distances, ascending
    lows, highs, bounds = np.empty(STACK, np.int64), np.empty(STACK, np.int64), np.empty(STACK, np.float32)
    for n in range(count):
        me = order[n]
        x, y, z = points[me, 0], points[me, 1], points[me, 2]
        near[:] = np.float32(np.inf)
        lows[0], highs[0], bounds[0] = 0, count, np.float32(0)
        top = 1
        while top > 0:
            top -= 1
            low, high = lows[top], highs[top]
            if low >= high or bounds[top] >= near[wanted - 1]:
                continue
            middle = (low + high) // 2
            other = order[middle]
            if other != me:
                dx, dy, dz = points[other, 0] - x, points[other, 1] - y, points[other, 2] - z
                square = dx * dx + dy * dy + dz * dz
                for j in range(wanted):
                    if square < near[j]:
                        square, near[j] = near[j], square
            axis = axes[middle]
            offset = points[me, axis] - points[other, axis]
            far = offset * offset  # no point across the cut is nearer than this
            bound = bounds[top]
            for side in range(2):  # the point's own side last, so that it is popped first
                own = side == 1
                left = (offset < 0) == own
                lows[top], highs[top] = (low, middle) if left else (middle + 1, high)
                bounds[top] = bound if own else max(bound, far)
                top += 1
        total = np.float32(0)
        for j in range(wanted):
            total += np.sqrt(near[j])
        distances[me] = total / np.float32(wanted)
