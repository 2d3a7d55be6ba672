"""Statistics over all pairs of two sets of features [N, D], in float64 and in chunks of rows.

Precision, recall, density, coverage and KID read these statistics. Products of 10,000 x 60,000 features take minutes,
so each is computed once and serves all measures, both of all images and of all images without each of the jackknife's
groups (image i is in group i % groups).
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.progress import Progress

ROWS = 256  # rows of the matrix of pairs in memory at a time
PROGRESS_PAIRS = 10**8  # smallest number of pairs with a progress line; so many take seconds


# A kernel of rows x and y, from the inner products x.y, the squared distances |x - y|^2, and the dimensions D of a row.
Kernel = Callable[[Tensor, Tensor, int], Tensor]


def cubic_kernel(products: Tensor, squares: Tensor, dimensions: int) -> Tensor:
    """Kernel (x.y / D + 1)^3 of KID."""
    base = products.div(dimensions).add_(1)
    return base.square().mul_(base)  # several times faster than ** 3


# The mean of each kernel over all pairs is computed. A measure reads it by its name here: `CrossPairs.squared_mmd`.
KERNELS: dict[str, Kernel] = {"cubic": cubic_kernel}


@dataclass(frozen=True)
class SetPairs:
    """Statistics over the pairs of one set: entry 0 for all rows, entry 1 + g for all rows but those of group g."""

    radii: Tensor  # [1 + groups, N], distance of each row to its k-th nearest other row: the radius of its ball
    kernels: dict[str, Tensor]  # name -> [1 + groups], mean kernel of two different rows


@dataclass(frozen=True)
class KernelMeans:
    """Means of one kernel over the pairs of x and y; scalars."""

    xx: Tensor  # of two different rows of x
    yy: Tensor  # of two different rows of y
    xy: Tensor  # of a row of x and a row of y


@dataclass(frozen=True)
class CrossPairs:
    """Statistics over the pairs of generated features x [M, D] and reference features y [N, D]."""

    is_inside_y: Tensor  # bool [M], the row of x lies in a ball of y
    is_inside_x: Tensor  # bool [N], the row of y lies in a ball of x
    ball_count: Tensor  # [M], number of balls of y that the row of x lies strictly inside
    is_covered: Tensor  # bool [N], a row of x lies strictly inside the ball of this row of y
    kernels: dict[str, KernelMeans]  # by name

    def squared_mmd(self, kernel: str) -> float:
        """Unbiased squared MMD (Bińkowski et al. 2018): E k(x, x') + E k(y, y') - 2 E k(x, y)."""
        means = self.kernels[kernel]
        return (means.xx + means.yy - 2 * means.xy).item()


def pairs_within(x: Tensor, k: int, groups: int = 0) -> SetPairs:
    """Statistics over the pairs of x [N, D], for all rows and for the rows that remain without each group."""
    masks = group_masks(len(x), groups)
    radii = torch.empty(len(masks), len(x), dtype=torch.float64)
    group_sums = {name: torch.zeros(max(groups, 1), max(groups, 1), dtype=torch.float64) for name in KERNELS}
    member = _membership(len(x), groups)
    for rows, distances, kernels in _blocks(x, x):
        for part, mask in enumerate(masks):
            remaining = distances if mask.all() else distances[:, mask]
            # k + 1: every row is its own nearest neighbour. topk is several times faster than kthvalue.
            radii[part, rows] = remaining.topk(k + 1, dim=1, largest=False).values[:, -1]
        for name, kernel in kernels.items():
            kernel[:, rows].fill_diagonal_(0)  # a row and itself are not a pair
            group_sums[name] += member[rows].T @ (kernel @ member)
    counts = masks.sum(dim=1).double()
    pairs = counts * (counts - 1)
    return SetPairs(radii, {name: _sums_without_groups(sums, groups) / pairs for name, sums in group_sums.items()})


def pairs_between(x: Tensor, y: Tensor, y_pairs: SetPairs, k: int, groups: int = 0) -> tuple[list[CrossPairs], Tensor]:
    """Statistics over the pairs of x [M, D] and y [N, D], and the distance [M] of each row of x to its nearest of y.

    y_pairs: the statistics of y with itself. Entry 0 of the list is for all rows of x, entry 1 + g for all rows but
    those of group g.
    """
    x_pairs, masks, member = pairs_within(x, k, groups), group_masks(len(x), groups), _membership(len(x), groups)
    y_radii = y_pairs.radii[0]
    x_radii = torch.where(masks, x_pairs.radii, -1.0)  # the ball of an excluded row contains nothing
    inside_x = torch.zeros(len(masks), len(y), dtype=torch.bool)
    covered = torch.zeros(max(groups, 1), len(y), dtype=torch.bool)  # [g]: by a row of group g
    inside_y, ball_count = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.float64)
    nearest = torch.empty(len(x), dtype=torch.float64)
    row_sums = {name: torch.zeros(len(x), dtype=torch.float64) for name in KERNELS}
    for rows, distances, kernels in _blocks(x, y):
        nearest[rows] = distances.min(dim=1).values
        for name, kernel in kernels.items():
            row_sums[name][rows] = kernel.sum(dim=1)
        inside_y[rows] = (distances <= y_radii).any(dim=1)
        # Naeem et al. count points strictly inside a ball; Kynkäänniemi et al. also count points on its border.
        strictly_inside = distances < y_radii
        ball_count[rows] = strictly_inside.sum(dim=1).double()
        for group in range(len(covered)):
            covered[group] |= strictly_inside[member[rows, group] > 0].any(dim=0)
        for part, radii in enumerate(x_radii):
            inside_x[part] |= (distances <= radii[rows, None]).any(dim=0)
    statistics = [
        CrossPairs(
            is_inside_y=inside_y[mask],
            is_inside_x=inside_x[part],
            ball_count=ball_count[mask],
            is_covered=covered[[group for group in range(len(covered)) if group != part - 1]].any(dim=0),
            kernels={
                name: KernelMeans(x_pairs.kernels[name][part], y_pairs.kernels[name][0], sums[mask].mean() / len(y))
                for name, sums in row_sums.items()
            },
        )
        for part, mask in enumerate(masks)
    ]
    return statistics, nearest


def find_nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each row of x to its nearest row of y, and the index [N] of that row."""
    parts = [torch.cdist(part, y.double()).min(dim=1) for part in x.double().split(ROWS)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def mean_pairwise_distance(x: Tensor) -> float:
    """Mean distance of two different rows of x [N, D]; 0 for a single row."""
    n = len(x)
    total = sum(torch.cdist(part, x.double()).sum().item() for part in x.double().split(ROWS))
    return total / (n * (n - 1)) if n > 1 else 0.0


def group_masks(n: int, groups: int) -> Tensor:
    """Masks bool [1 + groups, n]: all rows, then all rows but those of each group."""
    group = torch.arange(n) % max(groups, 1)
    return torch.stack([torch.ones(n, dtype=torch.bool), *(group != g for g in range(groups))])


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, dict[str, Tensor]]]:
    """Yield rows of x, their distances to y [rows, N] and their kernels with y [rows, N], all from one product."""
    x, y = x.double(), y.double()
    norms = y.square().sum(dim=1)
    name = f"images compared with {len(y)}, {x.shape[1]} features"
    with Progress(name, len(x), "images") if len(x) * len(y) >= PROGRESS_PAIRS else nullcontext() as progress:
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS]
            products = part @ y.T
            squares = torch.add(part.square().sum(dim=1)[:, None], norms).sub_(products, alpha=2).clamp_min_(0)
            kernels = {name: kernel(products, squares, x.shape[1]) for name, kernel in KERNELS.items()}
            yield slice(start, start + len(part)), squares.sqrt_(), kernels
            if progress is not None:
                progress.update(len(part))


def _membership(n: int, groups: int) -> Tensor:
    """Membership [n, groups] of rows in groups, 0 or 1; without groups all rows are in one."""
    return torch.nn.functional.one_hot(torch.arange(n) % max(groups, 1), max(groups, 1)).double()


def _sums_without_groups(sums: Tensor, groups: int) -> Tensor:
    """Sum [1 + groups] over all pairs, then without the pairs of each group; sums [G, G] is by pairs of groups."""
    whole = sums.sum()
    return torch.stack([whole, *(whole - sums[g].sum() - sums[:, g].sum() + sums[g, g] for g in range(groups))])
