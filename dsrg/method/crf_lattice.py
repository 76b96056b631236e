"""The CRF's Gaussian filters on a permutohedral lattice (Adams, Baek and Davis 2010), in plain torch on any device.

A point of d features lies in a simplex of the lattice A*_d and hands its value to the d+1 vertices around it (splat);
every vertex exchanges with its neighbors along the d+1 directions of the lattice (blur); a point reads the vertices
around it (slice). This approximates a Gaussian of standard deviation 1 over the features. Kraehenbuehl and Koltun
(2011) run their mean field on it, and so does pydensecrf, whose numbers these are but for the rounding of float32.

All images of a batch share one sparse lattice: the image's number is the first digit of a vertex's key, so images
never meet. Only the V vertices around points exist, in the order of their keys; row V, behind them, is always 0 and
stands for every neighbor that does not exist.

Splat, blur and slice are sparse matrices, multiplied by `embedding_bag`, which sums in a fixed order, here that of a
stable sort. So equal input gives equal bits on a GPU too, where scattering by atomic additions would not, torch's
deterministic replacement for it sorts again at every call, and cuSPARSE promises no order for its sums.
"""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsrg.method.crf_pydensecrf import Kernel

# Floats in the table of the vertices' values (128 MiB; the blur holds two). Channels do not mix: where an image has so
# many vertices that not all channels fit, they are filtered some at a time, with the same result.
TABLE = 2**25
# Probabilities of the images that a CPU works on at once, as floats: few enough for its cache to hold their tables.
CACHE = 180_000
# Corners of simplices up to which a GPU is not asked how many vertices they are: those of a training step, 40 of whose
# images fit. More would cost more than they spare.
FEW = 2**19
# Kraehenbuehl's code takes points four by four and fills up with points whose features are all 0: a black pixel in the
# corner. They have no value, but their vertices exist, and the blur passes others' values on through them. Without them
# up to half a percent of the labels of 41 x 41 pixels differ from pydensecrf's.
BLOCK = 4


class Csr(NamedTuple):
    """A sparse matrix (R, N) by rows: those of row i are entries starts[i] up to starts[i+1], summed in that order."""

    columns: Tensor  # int32 (S,)
    starts: Tensor  # int32 (R+1,)
    weights: Tensor  # float32 (S,)

    def apply(self, values: Tensor) -> Tensor:
        """The matrix times values float32 (N, C): float32 (R, C)."""
        weights = {"per_sample_weights": self.weights, "include_last_offset": True}
        return F.embedding_bag(self.columns, values, self.starts, mode="sum", **weights)

    def after(self, first: "Csr") -> "Csr":
        """This matrix times the `first`. What it adds twice has two entries."""
        counts = first.starts.diff().index_select(0, self.columns).long()
        ends = F.pad(counts.cumsum(0), (1, 0))
        ours = torch.repeat_interleave(counts)
        shift = first.starts.index_select(0, self.columns) - ends[:-1]
        theirs = torch.arange(len(ours), device=ours.device) + shift.index_select(0, ours)
        weights = self.weights.index_select(0, ours) * first.weights.index_select(0, theirs)
        return Csr(first.columns.index_select(0, theirs), ends.index_select(0, self.starts).int(), weights)


class Lattice:
    """The lattice around some points, built once, and the filter on it.

    Args:
        features: float32 (N, B, d): N points of B images, in units of the filter's standard deviation.
        largest: d numbers, known on the host: each feature lies between 0 and this.
        symmetric: filter with D^-1/2 K D^-1/2 instead of K, D being the row sums of K (the CRF's normalization in
            Kraehenbuehl's code, NORMALIZE_SYMMETRIC).

    Attributes:
        rows: V, the number of vertices. For a GPU the number of simplices' corners where these are few, most of which
            are one vertex with others: it is no less, and the GPU need not be asked. Rows behind the last vertex are
            never read.
        matrices: what the filter multiplies by, one after another. Splat (V+1, N * B): each vertex's sum over the
            points around it, in their order; d+1 blurs (V+1, V+1); slice (N * B, V+1).

    Raises:
        ValueError: features spread so widely that 64 bits cannot number the vertices.
    """

    def __init__(self, features: Tensor, *, largest: Sequence[float], symmetric: bool) -> None:
        points, images, dimension = features.shape
        corners, ghosts, count = dimension + 1, 1 if points % BLOCK else 0, points * images
        origin, weights, order = enclosing_simplex(elevate(F.pad(features, (0, 0, 0, 0, 0, ghosts)).flatten(0, 1)))
        weights[count:] = 0
        keys, steps = vertex_keys(origin, order, images=images, largest=largest)

        by_vertex, corner = keys.flatten().sort(stable=True)
        first = torch.cat([by_vertex.new_ones(1, dtype=torch.bool), by_vertex[1:] != by_vertex[:-1]])
        self.rows = table_rows(first)
        starts = torch.nonzero_static(first, size=self.rows, fill_value=len(corner)).squeeze(1)
        # any column does for a ghost: its weight is 0
        point = torch.arange(len(keys), device=keys.device, dtype=torch.int32).clamp_(max=count - 1)
        around = point[:, None].repeat(1, corners).flatten().index_select(0, corner)
        splat = Csr(around, F.pad(starts, (0, 2), value=len(corner)).int(), weights.flatten().index_select(0, corner))
        vertices = torch.empty_like(corner).scatter_(0, corner, first.cumsum(0) - 1)[: count * corners].int()
        read = weights[:count].flatten() / (1 + 2.0**-dimension)  # a divisor of Kraehenbuehl's
        slice_ = Csr(vertices, multiples(corners, count, like=vertices), read)
        keys = F.pad(by_vertex, (0, 1), value=2**62).index_select(0, starts)
        self.matrices = [splat, *blurs(keys, steps), slice_]
        if symmetric:
            scale = (self.filter(weights.new_ones(count, 1)) + 1e-20).rsqrt()
            splat.weights.mul_(scale.flatten().index_select(0, around))
            slice_.weights.view(count, corners).mul_(scale)

    def filter(self, values: Tensor) -> Tensor:
        """For each point the sum of its image's values, weighted by the kernel: float32 (N * B, C) of the same."""
        channels = max(1, TABLE // (self.rows + 1))
        if channels >= values.shape[1]:
            return self._filter(values)
        return torch.cat([self._filter(some.contiguous()) for some in values.split(channels, dim=1)], dim=1)

    def _filter(self, values: Tensor) -> Tensor:
        return reduce(lambda table, matrix: matrix.apply(table), self.matrices, values)

    def compose(self) -> "Lattice":
        """The same filter by one matrix, if that has no more entries than all of them: where points hardly meet."""
        entries = self.matrices[0].starts.diff().float()[:, None]
        for matrix in self.matrices[1:]:
            entries = matrix._replace(weights=torch.ones_like(matrix.weights)).apply(entries)
        if entries.sum() <= sum(len(matrix.columns) for matrix in self.matrices):
            self.matrices = [reduce(lambda first, then: then.after(first), self.matrices)]
        return self


def multiples(number: int, count: int, *, like: Tensor) -> Tensor:
    """0, number, ... number * count, int32."""
    return torch.arange(0, number * count + 1, number, dtype=torch.int32, device=like.device)


def table_rows(first: Tensor) -> int:
    """The number of vertices, of each of which one corner is the `first`, bool (S,); for a GPU a bound."""
    return len(first) if first.is_cuda and len(first) <= FEW else int(first.sum())


def elevate(features: Tensor) -> Tensor:
    """Features float32 (N, d) in the plane of coordinates that sum to 0, in units of the lattice: float32 (N, d+1).

    Adams et al., section 3.1: feature i raises the coordinates before i+1 alike and lowers that one by i+1 times as
    much; scaled so that splat, blur and slice together are a Gaussian of standard deviation 1 in the features. Rounded
    step by step as in Kraehenbuehl's code, for points on the border of two simplices to fall on the same side.
    """
    scaled = [features[:, i] * scale for i, scale in enumerate(elevation_scales(features.shape[1]))]
    coordinates, raised = [], torch.zeros_like(scaled[0])
    for i in reversed(range(len(scaled))):
        coordinates.append(raised - (i + 1) * scaled[i])
        raised = raised + scaled[i]
    return torch.stack([raised, *reversed(coordinates)], dim=1)


def elevation_scales(dimension: int) -> list[float]:
    """By how much each of d features raises the coordinates before it."""
    deviation = float(np.float32(np.sqrt(2 / 3) * (dimension + 1)))
    return [float(deviation / np.sqrt((i + 1) * (i + 2))) for i in range(dimension)]


def enclosing_simplex(elevated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The simplex around each point, and the point's barycentric coordinates in it (Adams et al., section 3.2).

    All coordinates of vertex k are k modulo d+1. Vertex 0 is the origin; each next vertex is 1 higher in all
    coordinates but one, in which it is d lower: first that in which the point lies lowest seen from the origin, then
    the next lowest. Of equally low coordinates the last is the lowest.

    Args:
        elevated: float32 (N, d+1), from `elevate`.

    Returns:
        origin int64 (N, d+1), a (d+1)th of the coordinates of vertex 0; weights float32 (N, d+1) of the vertices 0 to
        d, 0..1 with sum 1; order int64 (N, d+1), coordinates from the highest to the lowest.
    """
    corners = elevated.shape[1]
    nearest = (elevated * (1 / corners)).round()
    rest, order = (elevated - nearest * corners).sort(dim=1, descending=True, stable=True)
    # the nearest multiples of d+1 sum to (d+1) * excess: so many of the lowest coordinates move down, or of the highest
    # up, and each that moves goes to the other end of the order
    excess = nearest.sum(1, keepdim=True).long()
    source = torch.arange(corners, device=elevated.device) - excess
    moved = (source < 0).long() - (source >= corners).long()
    source += corners * moved
    order = order.gather(1, source)
    rest = rest.gather(1, source) / corners + moved
    origin = nearest.long() - torch.empty_like(moved).scatter_(1, order, moved)
    falls = rest - rest.roll(-1, dims=1)
    falls[:, -1] += 1
    return origin, falls.flip(1), order


def vertex_keys(origin: Tensor, order: Tensor, *, images: int, largest: Sequence[float]) -> tuple[Tensor, list[int]]:
    """Each vertex as one number, so that a step in a direction of the lattice adds the same to all of them.

    In direction i a vertex's neighbor is d higher in coordinate i and 1 lower in the others. Numbers are linear in the
    coordinates, by strides of which d+1 divides all but the last: so modulo d+1 they are what all coordinates are, and
    beyond that their digits are a (d+1)th of each coordinate rounded down. The last coordinate has no digit: all of
    them sum to 0. The image's number is the first digit.

    Args:
        origin, order: int64 (N * images, d+1), from `enclosing_simplex`.
        largest: d numbers; features lie between 0 and these.

    Returns:
        keys int64 (N * images, d+1) of the vertices 0 to d of each simplex; steps, d+1 numbers: what a step in each
        direction adds to a key.

    Raises:
        ValueError: features spread so widely that 64 bits are not enough.
    """
    corners = origin.shape[1]
    # how far `elevate` raises and lowers a coordinate; an origin is up to 1 away from the nearest one, a vertex up to 1
    # below that, a neighbor up to 2 from there
    scaled = [most * scale for most, scale in zip(largest, elevation_scales(corners - 1), strict=True)]
    lowest = [math.floor(-i * (scaled[i - 1] if i else 0) / corners) - 5 for i in range(corners - 1)]
    highest = [math.ceil(sum(scaled[i:]) / corners) + 7 for i in range(corners - 1)]
    radices = [corners * math.ceil((high - low) / corners) for high, low in zip(highest, lowest, strict=True)]
    whole = corners * math.prod(radices)
    if images * whole >= 2**62:
        raise ValueError(f"a lattice of {radices} cells is too wide: expected larger deviations of the kernel")
    strides = [math.prod(radices[place + 1 :]) for place in range(corners - 1)] + [0]
    steps = [corners * stride - sum(strides) for stride in strides]
    least = corners * sum(low * stride for low, stride in zip(lowest, strides[:-1], strict=True))
    known = torch.tensor(steps, device="cpu").to(origin.device, non_blocking=True)
    image = torch.arange(len(origin), device=origin.device) % images
    first = image * whole + (origin * known).sum(1) - least
    # the next vertex is one step against the direction of the coordinate in which it is lower
    down = known.index_select(0, order.flip(1).flatten()).view(order.shape)
    return torch.cat([first[:, None], -down[:, :-1]], dim=1).cumsum(1), steps


def blurs(keys: Tensor, steps: list[int]) -> list[Csr]:
    """Along each direction a vertex keeps its value and gets half of both neighbors': d+1 matrices (V+1, V+1).

    Row V stands for the neighbors that do not exist. Vertices on one line of a direction leave the same remainder when
    divided by its step: sorted by that, and those of one remainder by their keys, neighbors are next to each other.

    Args:
        keys: int64 (V,), ascending; 2**62 where there is no vertex. steps: d+1 numbers. Both from `vertex_keys`.
    """
    corners, nowhere = len(steps), len(keys)
    step = torch.tensor(steps, device="cpu").to(keys.device, non_blocking=True).abs()[:, None]
    direction, rows = torch.arange(corners, device=keys.device)[:, None], torch.arange(nowhere + 1, device=keys.device)
    # one sort for all directions, with the direction as the first digit; it is stable, so keys stay ascending
    places = (keys % step + direction * max(map(abs, steps))).flatten().argsort(stable=True).view(corners, nowhere)
    line = places - direction * nowhere
    beside = keys.index_select(0, line.flatten()).view(corners, nowhere).diff(dim=1) == step
    neighbors = torch.full((2, corners, nowhere + 1), nowhere, device=keys.device)
    neighbors[0].scatter_(1, line[:, :-1], line[:, 1:].where(beside, nowhere))
    neighbors[1].scatter_(1, line[:, 1:], line[:, :-1].where(beside, nowhere))
    summed = torch.stack([rows.expand(corners, -1), *neighbors], dim=2).int().flatten(1)
    weights = torch.tensor([1, 0.5, 0.5], device="cpu").to(keys.device, non_blocking=True).repeat(nowhere + 1)
    return [Csr(columns, multiples(3, nowhere + 1, like=columns), weights) for columns in summed]


@torch.no_grad()
def lattice_mean_field(images: Tensor, unary: Tensor, kernel: Kernel) -> Tensor:
    """`dsrg.method.crf.dense_crf` with engine "lattice": arguments and result are described there.

    The lattices are built once and the iterations never wait for the device. A batch gives what its images give alone.

    Raises:
        ValueError: images and energies of different shapes; deviations too small to number the lattice's vertices.
    """
    batch, classes, height, width = unary.shape
    if images.shape != (batch, 3, height, width):
        raise ValueError(f"images {tuple(images.shape)} and energies {tuple(unary.shape)} differ in their shape")
    if not unary.numel():
        return unary.float()
    gaussian = gaussian_lattice(height, width, kernel, device=unary.device)
    some = max(1, CACHE // unary[0].numel()) if unary.device.type == "cpu" else batch  # images at once
    pairs = zip(images.to(unary.device).split(some), unary.float().split(some), strict=True)
    return torch.cat([_mean_field(pixels, energies, kernel, gaussian) for pixels, energies in pairs])


def _mean_field(images: Tensor, unary: Tensor, kernel: Kernel, gaussian: Lattice) -> Tensor:
    batch, classes, height, width = unary.shape
    bilateral = bilateral_lattice(images, kernel)
    evidence = -unary.permute(2, 3, 0, 1).reshape(height * width * batch, classes)
    probs = evidence.softmax(1)
    for _ in range(kernel.iterations):
        smooth = gaussian.filter(probs.view(height * width, -1)).view_as(probs)
        logits = torch.add(evidence, smooth, alpha=kernel.gaussian_weight)
        probs = logits.add_(bilateral.filter(probs), alpha=kernel.bilateral_weight).softmax(1)
    return probs.view(height, width, batch, classes).permute(2, 3, 0, 1).contiguous()


def gaussian_lattice(height: int, width: int, kernel: Kernel, *, device: torch.device) -> Lattice:
    """The CRF's filter over places. It is the same for all images, so it is built for one, with the values of all."""
    largest = [(width - 1) / kernel.gaussian_xy, (height - 1) / kernel.gaussian_xy]
    features = _places(height, width, deviation=kernel.gaussian_xy, device=device)
    lattice = Lattice(features, largest=largest, symmetric=True)
    return lattice if device.type == "cuda" else lattice.compose()  # which asks how many rows there are


def bilateral_lattice(images: Tensor, kernel: Kernel) -> Lattice:
    """The CRF's filter over places and colors, of images uint8 (B, 3, H, W)."""
    batch, _, height, width = images.shape
    place = _places(height, width, deviation=kernel.bilateral_xy, device=images.device).expand(-1, batch, -1)
    color = images.permute(2, 3, 0, 1).flatten(0, 1) / torch.full((), kernel.bilateral_rgb, device=images.device)
    largest = [(side - 1) / kernel.bilateral_xy for side in (width, height)] + [255 / kernel.bilateral_rgb] * 3
    return Lattice(torch.cat([place, color], dim=2), largest=largest, symmetric=True)


def _places(height: int, width: int, *, deviation: float, device: torch.device) -> Tensor:
    """Each pixel's column and row in deviations, float32 (H * W, 1, 2)."""
    down, right = torch.meshgrid(*(torch.arange(side, device=device) for side in (height, width)), indexing="ij")
    # by a tensor: a GPU would multiply by the reciprocal of a Python number, which rounds otherwise
    return torch.stack([right, down], dim=-1).view(-1, 1, 2) / torch.full((), deviation, device=device)
