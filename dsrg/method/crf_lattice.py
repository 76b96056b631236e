"""The CRF's Gaussian filters on a permutohedral lattice (Adams, Baek and Davis 2010), in plain torch on any device.

A point of d features lies in a simplex of the lattice A*_d and hands its value to the d+1 vertices around it (splat);
every vertex exchanges with its neighbors along the d+1 directions of the lattice (blur); a point reads the vertices
around it (slice). This approximates a Gaussian of standard deviation 1 over the features. Kraehenbuehl and Koltun
(2011) run their mean field on it, and so does pydensecrf, whose numbers these are but for the rounding of float32.

All images of a batch share one sparse lattice: the image's number is the first digit of a vertex's key, so images
never meet. Only the V vertices around points exist, in the order of their keys; row V, behind them, is always 0 and
stands for every neighbor that does not exist.

Splat, blur and slice are sums over bags of rows (`embedding_bag`), each in a fixed order; the bags come from a stable
sort. So equal input gives equal bits on a GPU too, where scattering by atomic additions would not, torch's
deterministic replacement for it sorts again at every call, and cuSPARSE promises no order for its sums.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsrg.method.crf_pydensecrf import Kernel

# Floats in the table of the vertices' values (128 MiB; the blur holds two). Channels do not mix: where an image has so
# many vertices that not all channels fit, they are filtered some at a time, with the same result.
TABLE = 2**25
# Probabilities of the images that a CPU works on at once, as floats: few enough for its cache to hold their tables.
CACHE = 2**17
# Corners of simplices up to which a GPU is not asked how many vertices they are: those of a training step, 40 of whose
# images fit. More would cost more than they spare.
FEW = 2**19
# Kraehenbuehl's code takes points four by four and fills up with points whose features are all 0: a black pixel in the
# corner. They have no value, but their vertices exist, and the blur passes others' values on through them. Without them
# up to half a percent of the labels of 41 x 41 pixels differ from pydensecrf's.
BLOCK = 4


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
        bags: int32 (S,): rows of points, vertex by vertex; those of a vertex in order.
        bag_starts: int32 (V+2,): where each vertex's rows begin in `bags`, and their end; row V has none.
        splat_weights: float32 (S,): what the points in `bags` hand to their vertex.
        blurred: int32 (d+1, V+1, 4): rows to be summed along each direction: a vertex, twice, and both its neighbors,
            V for one that does not exist.
        vertices: int32 (N * B, d+1): rows of the vertices around each point.
        slice_weights: float32 (N * B, d+1): what each point takes from them.

    Raises:
        ValueError: features spread so widely that 64 bits cannot number the vertices.
    """

    def __init__(self, features: Tensor, *, largest: Sequence[float], symmetric: bool) -> None:
        points, images, dimension = features.shape
        corners, ghosts = dimension + 1, 1 if points % BLOCK else 0
        origin, weights, order = enclosing_simplex(elevate(F.pad(features, (0, 0, 0, 0, 0, ghosts)).flatten(0, 1)))
        weights[points * images :] = 0
        keys, strides = vertex_keys(origin, order, images=images, largest=largest)

        by_vertex, corner = keys.flatten().sort(stable=True)
        first = torch.cat([by_vertex.new_ones(1), (by_vertex[1:] != by_vertex[:-1]).long()])
        self.rows = table_rows(first)
        starts = torch.nonzero_static(first, size=self.rows, fill_value=len(corner)).squeeze(1)
        # any row does for a ghost: its weight is 0
        self.bags = (corner // corners).clamp(max=points * images - 1).int()
        self.bag_starts = F.pad(starts, (0, 2), value=len(corner)).int()
        self.splat_weights = weights.flatten()[corner]
        self.blurred = blurred_rows(F.pad(by_vertex, (0, 1), value=2**62)[starts], strides)
        vertices = torch.empty_like(corner).scatter_(0, corner, first.cumsum(0) - 1)
        self.vertices = vertices.view(-1, corners)[: points * images].int()
        # summing a vertex twice and each neighbor once doubles what the blur is, along each direction, and the blur
        # adds mass, (1/2, 1, 1/2); the other divisor is Kraehenbuehl's
        self.slice_weights = weights[: points * images] / (2**corners * (1 + 2.0**-dimension))
        if symmetric:
            scale = (self.filter(weights.new_ones(points * images, 1)) + 1e-20).rsqrt()
            self.splat_weights = self.splat_weights * scale[self.bags, 0]
            self.slice_weights = self.slice_weights * scale

    def filter(self, values: Tensor) -> Tensor:
        """For each point the sum of its image's values, weighted by the kernel: float32 (N * B, C) of the same."""
        channels = max(1, TABLE // (self.rows + 1))
        if channels >= values.shape[1]:
            return self._filter(values)
        return torch.cat([self._filter(some.contiguous()) for some in values.split(channels, dim=1)], dim=1)

    def _filter(self, values: Tensor) -> Tensor:
        splat = {"per_sample_weights": self.splat_weights, "include_last_offset": True}
        table = F.embedding_bag(self.bags, values, self.bag_starts, mode="sum", **splat)
        for rows in self.blurred:
            table = F.embedding_bag(rows, table, mode="sum")
        return F.embedding_bag(self.vertices, table, mode="sum", per_sample_weights=self.slice_weights)


def table_rows(first: Tensor) -> int:
    """The number of vertices, of each of which one corner is the `first`, int64 (S,) of 0 and 1; for a GPU a bound."""
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
    places = torch.arange(corners, device=elevated.device)
    source = (places - excess) % corners
    moved = (source + excess - places) // corners
    order = order.gather(1, source)
    rest = rest.gather(1, source) / corners + moved
    origin = nearest.long() - torch.empty_like(moved).scatter_(1, order, moved)
    falls = rest - rest.roll(-1, dims=1)
    falls[:, -1] += 1
    return origin, falls.flip(1), order


def vertex_keys(origin: Tensor, order: Tensor, *, images: int, largest: Sequence[float]) -> tuple[Tensor, list[int]]:
    """Each vertex as one number. Its digits: image, a (d+1)th of each coordinate rounded down, remainder.

    The last coordinate has no digit: all of them sum to 0.

    Args:
        origin, order: int64 (N * images, d+1), from `enclosing_simplex`.
        largest: d numbers; features lie between 0 and these.

    Returns:
        keys int64 (N * images, d+1) of the vertices 0 to d of each simplex; strides, d+1 numbers: what d+1 more in a
        coordinate adds to a key.

    Raises:
        ValueError: features spread so widely that 64 bits are not enough.
    """
    corners = origin.shape[1]
    # how far `elevate` raises and lowers a coordinate; an origin is up to 1 away from the nearest one, a vertex up to 1
    # below that, a neighbor up to 2 from there
    scaled = [most * scale for most, scale in zip(largest, elevation_scales(corners - 1), strict=True)]
    lowest = [math.floor(-i * (scaled[i - 1] if i else 0) / corners) - 5 for i in range(corners - 1)]
    radices = [math.ceil(sum(scaled[i:]) / corners) + 5 - least for i, least in enumerate(lowest)]
    if images * corners * math.prod(radices) >= 2**62:
        raise ValueError(f"a lattice of {radices} cells is too wide: expected larger deviations of the kernel")
    digits = [corners * math.prod(radices[place:]) for place in range(corners)]
    strides = [*digits[1:], 0]
    known = (torch.tensor(numbers, device="cpu") for numbers in (lowest, strides))
    each, steps = (numbers.to(origin.device, non_blocking=True) for numbers in known)
    image = torch.arange(len(origin), device=origin.device) % images
    first = image * digits[0] + ((origin[:, :-1] - each) * steps[:-1]).sum(1)
    below = steps[order.flip(1)[:, :-1]].cumsum(1)
    return first[:, None] - F.pad(below, (1, 0)) + torch.arange(corners, device=origin.device), strides


def blurred_rows(keys: Tensor, strides: list[int]) -> Tensor:
    """What is summed along each direction, int32 (d+1, V+1, 4): a vertex's row, twice, and those of both neighbors.

    In direction i one neighbor is d higher in coordinate i and 1 lower in the others, the second one opposite. Row V
    stands for those that do not exist.

    Args:
        keys: int64 (V,), ascending; 2**62 where there is no vertex. strides: d+1 numbers. Both from `vertex_keys`.
    """
    corners, nowhere = len(strides), len(keys)
    # 1 less in all coordinates takes 1 from the remainder; from 0 it goes to d, and all other digits fall by 1
    lower = keys - 1 - (sum(strides) - corners) * (keys % corners == 0)
    rows, beyond = torch.arange(nowhere + 1, device=keys.device), F.pad(keys, (0, 1), value=2**62)
    blurred = rows.int()[:, None].repeat(corners, 1, 4)
    for stride, table in zip(strides, blurred, strict=True):
        wanted = lower + stride
        place = torch.searchsorted(keys, wanted)
        place = torch.where(beyond[place] == wanted, place, nowhere)
        # whoever is a vertex's neighbor on one side has that vertex as its own on the other
        opposite = torch.full_like(rows, nowhere).scatter_(0, place, rows[:-1])
        table[:-1, 2], table[:-1, 3] = place, opposite[:-1]
    return blurred


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
    return Lattice(features, largest=largest, symmetric=True)


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
