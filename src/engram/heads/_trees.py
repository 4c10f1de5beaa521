"""Trees of a forest as arrays, and what they predict without scikit-learn."""

import numpy as np

LEAF = -1


def arrays(forest, k) -> dict[str, np.ndarray]:
    """The trees of a forest of scikit-learn, padded to the largest.

    Nodes stand in depth-first order, so that the left child follows its parent.

    Args:
        forest: fitted classifier or regressor.
        k: numbers of a leaf: classes, or 1.

    Returns:
        `feature` (trees, nodes), that of a split or -1 of a leaf; `next` (trees, nodes), the right
        child, or the number of the leaf; `threshold` float32 (trees, nodes), at most which a
        feature in single precision goes left, as it does by scikit-learn's in double precision;
        and `value` float32 (trees, leaves, k).
    """
    trees = [one.tree_ for one in forest.estimators_]
    leaves = [tree.children_left < 0 for tree in trees]
    shape = len(trees), max(tree.node_count for tree in trees)
    feature, following = np.full(shape, LEAF, np.int32), np.zeros(shape, np.int32)
    threshold = np.zeros(shape, np.float32)
    value = np.zeros((len(trees), max(leaf.sum() for leaf in leaves), k), np.float32)
    at = getattr(forest, "classes_", [0])
    for t, (tree, leaf) in enumerate(zip(trees, leaves, strict=True)):
        n = tree.node_count
        feature[t, :n] = np.where(leaf, LEAF, tree.feature)
        following[t, :n] = np.where(leaf, np.cumsum(leaf) - 1, tree.children_right)
        below = tree.threshold.astype(np.float32)
        threshold[t, :n] = np.where(
            below > tree.threshold, np.nextafter(below, np.float32(-np.inf)), below
        )
        value[t, : leaf.sum(), at] = tree.value[leaf, 0].T
    return {"feature": feature, "next": following, "threshold": threshold, "value": value}


def stacked(forests) -> dict[str, np.ndarray]:
    """Trees of several forests (forests, trees, ...), in the least integers that hold them."""
    found = {}
    for name in forests[0] if forests else ():
        parts = [forest[name] for forest in forests]
        shape = np.max([part.shape for part in parts], axis=0)
        fill = LEAF if name == "feature" else 0
        values = np.full((len(parts), *shape), fill, parts[0].dtype)
        for one, part in zip(values, parts, strict=True):
            one[tuple(map(slice, part.shape))] = part
        small = values.dtype.kind == "i" and values.max() <= np.iinfo(np.int16).max
        found[name] = values.astype(np.int16) if small else values
    return found


def predicted(trees, x) -> np.ndarray:
    """Mean over trees of the values of the leaves that rows fall into, float64 (n, k).

    Args:
        trees: of one forest, as `arrays` gives them.
        x: float32 (n, d).
    """
    total = np.zeros((len(x), trees["value"].shape[2]))
    names = ("feature", "next", "threshold", "value")
    for feature, following, threshold, value in zip(*(trees[n] for n in names), strict=True):
        at, rows = np.zeros(len(x), int), np.arange(len(x))
        while len(rows):
            rows = rows[feature[at[rows]] != LEAF]
            node = at[rows]
            left = x[rows, feature[node]] <= threshold[node]
            at[rows] = np.where(left, node + 1, following[node])
        total += value[following[at]]
    return total / len(trees["value"])
