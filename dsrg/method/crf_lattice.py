"""The CRF's Gaussian filters on a permutohedral lattice (Adams, Baek and Davis 2010), in plain torch on any device.

A point of d features lies in a simplex of the lattice A*_d and hands its value to the d+1 vertices around it (splat);
every vertex exchanges with its neighbours along the d+1 directions of the lattice (blur); a point reads the vertices
around it (slice). This approximates a Gaussian of standard deviation 1 over the features. Kraehenbuehl and Koltun
(2011) run their mean field on it, and so does pydensecrf, whose numbers these are but for the rounding of float32.

All images of a batch share one sparse lattice: the image's number is the first digit of a vertex's key, so images
never meet. Only the V vertices around points exist, in the order of their keys; row V, behind them, is always 0 and
stands for every neighbour that does not exist.

Splat, blur and slice are sums over bags of rows (`embedding_bag`), each in a fixed order; the bags come from a stable
sort. So equal input gives equal bits on a GPU too, where scattering by atomic additions would not, torch's
deterministic replacement for it sorts again at every call, and cuSPARSE promises no order for its sums.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dsrg.method.crf_pydensecrf import Kernel

# Floats in the table of the vertices' values (128 MiB; the blur holds two). Channels do not mix: where an image has so
# many vertices that not all channels fit, they are filtered some at a time, with the same result.
TABLE = 2**25
# Kraehenbuehl's code takes points four by four and fills up with points whose features are all 0: a black pixel in the
# corner. They have no value, but their vertices exist, and the blur passes others' values on through them. Without them
# up to half a percent of the labels of 41 x 41 pixels differ from pydensecrf's.
BLOCK = 4


class Lattice:
    """The lattice around some points, built once, and the filter on it.

    Args:
        features: float32 (B, N, d): B images of N points, in units of the filter's standard deviation.
        symmetric: filter with D^-1/2 K D^-1/2 instead of K, D being the row sums of K (the CRF's normalisation in
            Kraehenbuehl's code, NORMALIZE_SYMMETRIC).

    Attributes:
        bags: int64 (S,): rows of points, vertex by vertex; those of a vertex in order.
        bag_starts: int64 (V+2,): where each vertex's rows begin in `bags`, and their end; row V has none.
        splat_weights: float32 (S,): what the points in `bags` hand to their vertex.
        neighbours: int64 (d+1, V+1, 2): rows of both neighbours of a vertex along each direction, V for none.
        vertices: int64 (B * N, d+1): rows of the vertices around each point.
        slice_weights: float32 (B * N, d+1): what each point takes from them.

    Raises:
        ValueError: features spread so widely that 64 bits cannot number the vertices.
    """

    def __init__(self, features: Tensor, *, symmetric: bool) -> None:
        images, points, dimension = features.shape
        corners, ghosts = dimension + 1, 1 if points % BLOCK else 0
        everyone = points + ghosts
        origin, weights, order = enclosing_simplex(elevate(F.pad(features, (0, 0, 0, ghosts)).flatten(0, 1)))
        weights.view(images, everyone, corners)[:, points:] = 0
        keys, strides = vertex_keys(origin, order, images=images)

        by_vertex, corner = keys.flatten().sort(stable=True)
        first = torch.cat([by_vertex.new_ones(1), (by_vertex[1:] != by_vertex[:-1]).long()])
        starts = first.nonzero().squeeze(1)
        image, point = corner // (corners * everyone), corner // corners % everyone
        self.bags = image * points + point.clamp(max=points - 1)  # any row does for a ghost: its weight is 0
        self.bag_starts = torch.cat([starts, starts.new_full((2,), len(corner))])
        self.splat_weights = weights.flatten()[corner]
        self.neighbours = neighbouring(by_vertex[starts], strides)
        vertices = torch.empty_like(corner).scatter_(0, corner, first.cumsum(0) - 1)
        self.vertices = vertices.view(images, everyone, corners)[:, :points].flatten(0, 1)
        # the blur adds mass, (1/2, 1, 1/2) along each direction; the divisor is Kraehenbuehl's
        self.slice_weights = weights.view(images, everyone, corners)[:, :points].flatten(0, 1) / (1 + 2.0**-dimension)
        if symmetric:
            scale = (self.filter(weights.new_ones(images * points, 1)) + 1e-20).rsqrt()
            self.splat_weights = self.splat_weights * scale[self.bags, 0]
            self.slice_weights = self.slice_weights * scale

    def filter(self, values: Tensor) -> Tensor:
        """For each point the sum of its image's values, weighted by the kernel: float32 (B * N, C) of the same."""
        channels = max(1, TABLE // len(self.bag_starts))
        return torch.cat([self._filter(some.contiguous()) for some in values.split(channels, dim=1)], dim=1)

    def _filter(self, values: Tensor) -> Tensor:
        table = F.embedding_bag(
            self.bags,
            values,
            self.bag_starts,
            mode="sum",
            per_sample_weights=self.splat_weights,
            include_last_offset=True,
        )
        for both in self.neighbours:
            table.add_(F.embedding_bag(both, table, mode="sum"), alpha=0.5)
        return F.embedding_bag(self.vertices, table, mode="sum", per_sample_weights=self.slice_weights)


def elevate(features: Tensor) -> Tensor:
    """Features float32 (N, d) in the plane of coordinates that sum to 0, in units of the lattice: float32 (N, d+1).

    Adams et al., section 3.1: feature i raises the coordinates before i+1 alike and lowers that one by i+1 times as
    much; scaled so that splat, blur and slice together are a Gaussian of standard deviation 1 in the features. Rounded
    step by step as in Kraehenbuehl's code, for points on the border of two simplices to fall on the same side.
    """
    dimension = features.shape[1]
    deviation = float(np.float32(np.sqrt(2 / 3) * (dimension + 1)))
    scaled = [features[:, i] * float(deviation / np.sqrt((i + 1) * (i + 2))) for i in range(dimension)]
    coordinates, raised = [], torch.zeros_like(scaled[0])
    for i in reversed(range(dimension)):
        coordinates.append(raised - (i + 1) * scaled[i])
        raised = raised + scaled[i]
    return torch.stack([raised, *reversed(coordinates)], dim=1)


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


def vertex_keys(origin: Tensor, order: Tensor, *, images: int) -> tuple[Tensor, Tensor]:
    """Each vertex as one number. Its digits: image, a (d+1)th of each coordinate rounded down, remainder.

    The last coordinate has no digit: all of them sum to 0.

    Args:
        origin, order: int64 (N, d+1), from `enclosing_simplex`; N is a multiple of `images`.

    Returns:
        keys int64 (N, d+1) of the vertices 0 to d of each simplex; strides int64 (d+1,): what d+1 more in a coordinate
        adds to a key.

    Raises:
        ValueError: features spread so widely that 64 bits are not enough.
    """
    corners = origin.shape[1]
    lowest, highest = origin[:, :-1].aminmax(dim=0)
    # a vertex is up to 1 below the origin of its simplex, a neighbour up to 2 from there
    lowest, radices = lowest - 3, highest - lowest + 6
    if images * corners * radices.float().prod() >= 2.0**62:
        raise ValueError(f"a lattice of {radices.tolist()} cells is too wide: expected larger deviations of the kernel")
    digits = corners * torch.cat([radices, radices.new_ones(1)]).flip(0).cumprod(0).flip(0)
    strides = torch.cat([digits[1:], digits.new_zeros(1)])
    image = torch.arange(images, device=origin.device).repeat_interleave(len(origin) // images)
    first = image * digits[0] + ((origin[:, :-1] - lowest) * strides[:-1]).sum(1)
    lowered = strides[order.flip(1)[:, :-1]].cumsum(1)
    return first[:, None] - F.pad(lowered, (1, 0)) + torch.arange(corners, device=origin.device), strides


def neighbouring(keys: Tensor, strides: Tensor) -> Tensor:
    """Rows of the neighbours of each vertex: int64 (d+1, V+1, 2), V for one that does not exist and for those of row V.

    In direction i one neighbour is d higher in coordinate i and 1 lower in the others, the second one opposite.

    Args:
        keys: int64 (V,), ascending; strides: int64 (d+1,), both from `vertex_keys`.
    """
    corners, nowhere = len(strides), len(keys)
    remainder = keys % corners
    # 1 less in all coordinates takes 1 from the remainder; from 0 it goes to d, and all other digits fall by 1
    borrow = strides.sum() - corners
    lower = keys - 1 - borrow * (remainder == 0)
    higher = keys + 1 + borrow * (remainder == corners - 1)
    neighbours = keys.new_full((corners, nowhere + 1, 2), nowhere)
    for stride, rows in zip(strides, neighbours, strict=True):
        for side, wanted in enumerate((lower + stride, higher - stride)):
            place = torch.searchsorted(keys, wanted).clamp_(max=nowhere - 1)
            rows[:-1, side] = torch.where(keys[place] == wanted, place, nowhere)
    return neighbours


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
    gaussian, bilateral = lattices(images.to(unary.device), kernel)
    evidence = -unary.float().permute(0, 2, 3, 1).reshape(-1, classes)
    probs = evidence.softmax(1)
    for _ in range(kernel.iterations):
        logits = evidence + kernel.gaussian_weight * gaussian.filter(probs)
        logits += kernel.bilateral_weight * bilateral.filter(probs)
        probs = logits.softmax(1)
    return probs.view(batch, height, width, classes).permute(0, 3, 1, 2).contiguous()


def lattices(images: Tensor, kernel: Kernel) -> tuple[Lattice, Lattice]:
    """The CRF's two filters, over places and over places with colours, of images uint8 (B, 3, H, W)."""
    device, (batch, _, *sides) = images.device, images.shape
    # as tensors: a GPU would multiply by the reciprocal of a Python number, which rounds otherwise
    deviations = torch.tensor([kernel.gaussian_xy, kernel.bilateral_xy, kernel.bilateral_rgb], device=device)
    down, right = torch.meshgrid(*(torch.arange(side, device=device) for side in sides), indexing="ij")
    place = torch.stack([right, down], dim=-1).flatten(0, 1).expand(batch, -1, -1)
    colour = images.permute(0, 2, 3, 1).flatten(1, 2)
    gaussian = Lattice(place / deviations[0], symmetric=True)
    return gaussian, Lattice(torch.cat([place / deviations[1], colour / deviations[2]], dim=2), symmetric=True)
