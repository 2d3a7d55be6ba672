"""Statistics over all pairs of two sets of features [N, D], in float64 and in chunks of rows.

Precision, recall, density, coverage and KID read these statistics. Products of 10,000 x 60,000 features take minutes,
so each is computed once and serves all measures, both of all images and of all images without each of the jackknife's
groups (see `group_of`).

Kernels are averaged over pairs of independent images only. A generated image has the label or caption of a training
image, its source. Two images with one source are alike in what the source determines, so with them the mean over all
pairs would not be that of independent draws, and an MMD of equal distributions would be below zero on average.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.progress import Progress

ROWS = 256  # largest number of rows of the matrix of pairs in memory at a time
BLOCK = 2**24  # largest number of its entries in memory at a time: 128 MiB in float64, for any number of columns
PROGRESS_PAIRS = 10**8  # smallest number of pairs with a progress line; so many take seconds
MOST_ALIKE = 256  # largest number of images of one condition whose distances are averaged


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
    kernels: dict[str, Tensor]  # name -> [1 + groups], mean kernel of two rows with different sources


@dataclass(frozen=True)
class KernelMeans:
    """Means of one kernel over the pairs of x and y with different sources; scalars."""

    xx: Tensor  # of two rows of x
    yy: Tensor  # of two rows of y
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
        """Unbiased squared MMD (Bińkowski et al. 2018): E k(x, x') + E k(y, y') - 2 E k(x, y).

        With the sources of x and y this is the form for paired samples (Gretton et al. 2012, equation 4).
        """
        means = self.kernels[kernel]
        return (means.xx + means.yy - 2 * means.xy).item()


def pairs_within(x: Tensor, k: int, groups: int = 0, sources: Tensor | None = None) -> SetPairs:
    """Statistics over the pairs of x [N, D], for all rows and for the rows that remain without each group.

    sources: int64 [N], the source of each row; by default each row has a source of its own.
    """
    masks = group_masks(len(x), groups)
    sources = torch.arange(len(x)) if sources is None else sources
    radii = torch.empty(len(masks), len(x), dtype=torch.float64)
    group_sums = {name: torch.zeros(max(groups, 1), max(groups, 1), dtype=torch.float64) for name in KERNELS}
    member = _membership(len(x), groups)
    for rows, distances, kernels in _blocks(x, x):
        for part, mask in enumerate(masks):
            remaining = distances if mask.all() else distances[:, mask]
            # k + 1: every row is its own nearest neighbour. topk is several times faster than kthvalue.
            radii[part, rows] = remaining.topk(k + 1, dim=1, largest=False).values[:, -1]
        for name, kernel in kernels.items():
            kernel.masked_fill_(sources[rows, None] == sources, 0)  # among them each row and itself
            group_sums[name] += member[rows].T @ (kernel @ member)
    # All ordered pairs of n rows, without the pairs of the n_s rows of each source s.
    pairs = torch.stack([mask.sum().square() - sources[mask].bincount().square().sum() for mask in masks]).double()
    return SetPairs(radii, {name: _sums_without_groups(sums, groups) / pairs for name, sums in group_sums.items()})


def pairs_between(
    x: Tensor, y: Tensor, y_pairs: SetPairs, k: int, groups: int = 0, sources: tuple[Tensor, Tensor] | None = None
) -> tuple[list[CrossPairs], Tensor]:
    """Statistics over the pairs of x [M, D] and y [N, D], and the distance [M] of each row of x to its nearest of y.

    y_pairs: the statistics of y with itself. sources: int64 [M] and [N], the source of each row of x and of y; by
    default all rows are independent. Entry 0 of the list is for all rows of x, entry 1 + g for all rows but those of
    group g.
    """
    x_sources, y_sources = sources or (torch.arange(len(x)), torch.arange(len(x), len(x) + len(y)))
    x_pairs = pairs_within(x, k, groups, x_sources)
    masks, member = group_masks(len(x), groups), _membership(len(x), groups)
    y_radii = y_pairs.radii[0]
    x_radii = torch.where(masks, x_pairs.radii, -1.0)  # the ball of an excluded row contains nothing
    inside_x = torch.zeros(len(masks), len(y), dtype=torch.bool)
    covered = torch.zeros(max(groups, 1), len(y), dtype=torch.bool)  # [g]: by a row of group g
    inside_y, ball_count = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.float64)
    nearest = torch.empty(len(x), dtype=torch.float64)
    row_sums = {name: torch.zeros(len(x), dtype=torch.float64) for name in KERNELS}
    row_counts = torch.zeros(len(x), dtype=torch.float64)
    for rows, distances, kernels in _blocks(x, y):
        nearest[rows] = distances.min(dim=1).values
        is_dependent = x_sources[rows, None] == y_sources
        row_counts[rows] = (~is_dependent).sum(dim=1).double()
        for name, kernel in kernels.items():
            row_sums[name][rows] = kernel.masked_fill_(is_dependent, 0).sum(dim=1)
        inside_y[rows] = (distances <= y_radii).any(dim=1)
        # Naeem et al. count points strictly inside a ball; Kynkäänniemi et al. also count points on its border.
        strictly_inside = distances < y_radii
        ball_count[rows] = strictly_inside.sum(dim=1).double()
        for group in range(len(covered)):
            covered[group] |= strictly_inside[member[rows, group] > 0].any(dim=0)
        for part, radii in enumerate(x_radii):
            inside_x[part] |= (distances <= radii[rows, None]).any(dim=0)
    xy = {name: [sums[mask].sum() / row_counts[mask].sum() for mask in masks] for name, sums in row_sums.items()}
    statistics = [
        CrossPairs(
            is_inside_y=inside_y[mask],
            is_inside_x=inside_x[part],
            ball_count=ball_count[mask],
            is_covered=covered[[group for group in range(len(covered)) if group != part - 1]].any(dim=0),
            kernels={k: KernelMeans(x_pairs.kernels[k][part], y_pairs.kernels[k][0], xy[k][part]) for k in KERNELS},
        )
        for part, mask in enumerate(masks)
    ]
    return statistics, nearest


def find_nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each row of x to its nearest row of y, and the index [N] of that row."""
    y = y.double()
    parts = [torch.cdist(part.double(), y).min(dim=1) for part in x.split(_block_rows(y))]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def mean_pairwise_distance(x: Tensor) -> float:
    """Mean distance of two different rows of x [N, D]; 0 for a single row."""
    n, y = len(x), x.double()
    total = sum(torch.cdist(part, y).sum().item() for part in y.split(_block_rows(y)))
    return total / (n * (n - 1)) if n > 1 else 0.0


def distances_within(x: Tensor, conditions: Tensor, group: Tensor) -> list[float]:
    """Mean distance of two rows of x [N, D] with the same condition, averaged over the conditions with two rows.

    conditions: int64 [N]; of each, the first MOST_ALIKE rows count. group: int64 [N], the jackknife's group of each
    row. Entry 0 is for all rows, entry 1 + g for all rows but those of group g; empty if an entry has no pair.
    """
    groups = int(group.max()) + 1
    totals, counts = (torch.zeros(1 + groups, dtype=torch.float64) for _ in range(2))
    order = conditions.argsort(stable=True)
    for rows in order.split(conditions.bincount().tolist()):
        if len(rows) < 2:
            continue
        part = rows[:MOST_ALIKE]
        member = torch.nn.functional.one_hot(group[part], groups).double()
        left = len(part) - torch.cat([torch.zeros(1), member.sum(dim=0)])  # rows that remain
        y = x[part].double()
        sums = _sums_without_groups(member.T @ torch.cdist(y, y) @ member, groups)
        has_pair = left > 1
        totals[has_pair] += sums[has_pair] / (left * (left - 1))[has_pair]
        counts += has_pair
    return (totals / counts).tolist() if counts.all() else []


def shuffle(n: int) -> Tensor:
    """The indices of n images in a random order [n], the same at every call."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(0))


def group_of(n: int, groups: int) -> Tensor:
    """The jackknife's group [n] of each of n images; the sizes of groups differ by one image at most.

    The groups are random, because the order of the images follows their prompts: image i has prompt i % prompts, and
    group i % groups would hold some prompts alone wherever both numbers share a factor. Any run of `shuffle` has equal
    parts of all groups.
    """
    group = torch.empty(n, dtype=torch.int64)
    group[shuffle(n)] = torch.arange(n) % max(groups, 1)
    return group


def group_masks(n: int, groups: int) -> Tensor:
    """Masks bool [1 + groups, n]: all rows, then all rows but those of each group."""
    group = group_of(n, groups)
    return torch.stack([torch.ones(n, dtype=torch.bool), *(group != g for g in range(groups))])


def _block_rows(y: Tensor) -> int:
    """Rows of the matrix of pairs with y [N, D] in memory at a time."""
    return max(1, min(ROWS, BLOCK // max(len(y), 1)))


def _blocks(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, dict[str, Tensor]]]:
    """Yield rows of x, their distances to y [rows, N] and their kernels with y [rows, N], all from one product."""
    y = y.double()
    norms, size = y.square().sum(dim=1), _block_rows(y)
    name = f"images compared with {len(y)}, {x.shape[1]} features"
    with Progress(name, len(x), "images") if len(x) * len(y) >= PROGRESS_PAIRS else nullcontext() as progress:
        for start in range(0, len(x), size):
            part = x[start : start + size].double()
            products = part @ y.T
            squares = torch.add(part.square().sum(dim=1)[:, None], norms).sub_(products, alpha=2).clamp_min_(0)
            kernels = {name: kernel(products, squares, x.shape[1]) for name, kernel in KERNELS.items()}
            yield slice(start, start + len(part)), squares.sqrt_(), kernels
            if progress is not None:
                progress.update(len(part))


def _membership(n: int, groups: int) -> Tensor:
    """Membership [n, groups] of rows in groups, 0 or 1; without groups all rows are in one."""
    return torch.nn.functional.one_hot(group_of(n, groups), max(groups, 1)).double()


def _sums_without_groups(sums: Tensor, groups: int) -> Tensor:
    """Sum [1 + groups] over all pairs, then without the pairs of each group; sums [G, G] is by pairs of groups."""
    whole = sums.sum()
    return torch.stack([whole, *(whole - sums[g].sum() - sums[:, g].sum() + sums[g, g] for g in range(groups))])
