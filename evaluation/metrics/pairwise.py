"""Measures by all pairs of two sets of features [N, D], in one pass over them, in float64 and in chunks of rows.

Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020), KID (Binkowski et al. 2018).
Products of 10,000 x 60,000 features cost minutes: each is made once, for all measures, of all images and without each
group of them (image i is of group i modulo their number), which is what a jackknife asks for.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from dmd.progress import Progress

ROWS = 256  # of a matrix of pairs that is held at once
MANY = 10**8  # pairs, whose progress is shown: they take seconds


@dataclass(frozen=True)
class Within:
    """What is known of the pairs of one set: of all images, then without each group."""

    radii: Tensor  # [1 + groups, N], the distance of each row to its k-th nearest other row
    kernel: Tensor  # [1 + groups], the mean kernel of two different rows


@dataclass(frozen=True)
class Pairs:
    """A generated set against a real one."""

    precision: float  # share of generated images within the real manifold
    recall: float  # share of real images within the generated manifold
    density: float  # real balls around a generated image, over k; above 1 where it crowds into the dense parts
    coverage: float  # share of real balls with a generated image in them
    kid: float  # unbiased squared MMD with the kernel (x.y / D + 1)^3, on all images at once


def within(x: Tensor, k: int, groups: int = 0) -> Within:
    """The pairs of x [N, D] with itself; without a group only the rows that are left are meant."""
    kept = kept_rows(len(x), groups)
    radii = torch.empty(len(kept), len(x), dtype=torch.float64)
    sums = torch.zeros(max(groups, 1), max(groups, 1), dtype=torch.float64)  # of the kernel, by groups
    member = _member(len(x), groups)
    for rows, distances, kernel in _pairs(x, x):
        for p, columns in enumerate(kept):
            found = distances if columns.all() else distances[:, columns]
            # k + 1: every row is its own nearest neighbour. topk is several times faster than kthvalue.
            radii[p, rows] = found.topk(k + 1, dim=1, largest=False).values[:, -1]
        kernel[:, rows].fill_diagonal_(0)  # a row with itself is no pair
        sums += member[rows].T @ (kernel @ member)
    counts = kept.sum(dim=1).double()
    return Within(radii, _left(sums, groups) / (counts * (counts - 1)))


def compare(x: Tensor, y: Tensor, of_y: Within, k: int, groups: int = 0) -> tuple[list[Pairs], Tensor]:
    """Generated x [M, D] against real y [N, D], of which `of_y` is known; and the distance [M] to the nearest of y.

    The first of the list is of all of x, the next without its first group, and so on.
    """
    of_x, kept, member = within(x, k, groups), kept_rows(len(x), groups), _member(len(x), groups)
    radii_y = of_y.radii[0]
    # Of a row that is left out no ball is anywhere.
    radii_x = torch.where(kept, of_x.radii, -1.0)
    held = torch.zeros(len(kept), len(y), dtype=torch.bool)  # real images in a generated ball
    reached = torch.zeros(max(groups, 1), len(y), dtype=torch.bool)  # real balls with an image of the group in them
    inside, hits = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.float64)
    nearest, kernels = torch.empty(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for rows, distances, kernel in _pairs(x, y):
        nearest[rows], kernels[rows] = distances.min(dim=1).values, kernel.sum(dim=1)
        inside[rows] = (distances <= radii_y).any(dim=1)
        # Strictly within, as Naeem et al.; Kynkaanniemi et al. count the border too.
        strictly = distances < radii_y
        hits[rows] = strictly.sum(dim=1).double()
        for g in range(len(reached)):
            reached[g] |= strictly[member[rows, g] > 0].any(dim=0)
        for p, radii in enumerate(radii_x):
            held[p] |= (distances <= radii[rows, None]).any(dim=0)
    found = []
    for p, mine in enumerate(kept):
        covered = reached[[g for g in range(len(reached)) if g != p - 1]].any(dim=0)
        found.append(
            Pairs(
                precision=inside[mine].double().mean().item(),
                recall=held[p].double().mean().item(),
                density=hits[mine].mean().item() / k,
                coverage=covered.double().mean().item(),
                kid=(of_x.kernel[p] + of_y.kernel[0] - 2 * kernels[mine].mean() / len(y)).item(),
            )
        )
    return found, nearest


def nearest(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [N] of each row of x to its nearest row of y, and that row's index [N]."""
    parts = [torch.cdist(part, y.double()).min(dim=1) for part in x.double().split(ROWS)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def mean_pairwise(x: Tensor) -> float:
    """Mean distance between two different rows of x [N, D]; 0 for a single row."""
    n = len(x)
    total = sum(torch.cdist(part, x.double()).sum().item() for part in x.double().split(ROWS))
    return total / (n * (n - 1)) if n > 1 else 0.0


def kept_rows(n: int, groups: int) -> Tensor:
    """Rows that count, bool [1 + groups, n]: all, then those that are not of each group."""
    group = torch.arange(n) % max(groups, 1)
    return torch.stack([torch.ones(n, dtype=torch.bool), *(group != g for g in range(groups))])


def _pairs(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of x, their distances to y and their kernel with y, [rows, N] each, from one product."""
    x, y = x.double(), y.double()
    norms = y.square().sum(dim=1)
    what = f"images held against {len(y)}, {x.shape[1]} features"
    with Progress(what, len(x), "images") if len(x) * len(y) >= MANY else nullcontext() as progress:
        for start in range(0, len(x), ROWS):
            part = x[start : start + ROWS]
            product = part @ y.T
            squares = torch.add(part.square().sum(dim=1)[:, None], norms).sub_(product, alpha=2)
            root = product.div_(x.shape[1]).add_(1)
            kernel = root.square().mul_(root)  # several times faster than ** 3
            yield slice(start, start + len(part)), squares.clamp_min_(0).sqrt_(), kernel
            if progress is not None:
                progress.update(len(part))


def _member(n: int, groups: int) -> Tensor:
    """Which row is of which group, [n, groups] of 0 and 1; a single one where there are none."""
    return torch.nn.functional.one_hot(torch.arange(n) % max(groups, 1), max(groups, 1)).double()


def _left(sums: Tensor, groups: int) -> Tensor:
    """Sums over all pairs, then without the rows and columns of each group; sums [G, G]."""
    whole = sums.sum()
    return torch.stack([whole, *(whole - sums[g].sum() - sums[:, g].sum() + sums[g, g] for g in range(groups))])
