"""Pixel correlation of SEAM; on a CPU without the matrix of all pairs of pixels.

With unit features `g` the matrix of similarities `A = relu(g gᵀ)` is symmetric, so the sums that
normalize its columns are those of its rows, and one product `A [cam, 1]` gives the refined maps and
their divisors. That product is taken over square blocks of `A` on and above the diagonal: each is
computed when needed, used for its rows and (transposed) for its columns, and released; the backward
pass computes it again. An accelerator takes all of `A` as one block while it fits a stated bound.
"""

import math
from numbers import Integral
from typing import Any

import keras
from keras import ops

from wsss.ops.resize import resize_bilinear
from wsss.ops.vectors import unit_vectors

CPU_BLOCK_ELEMENTS = 1 << 20  # similarities held at once: 4 MiB stay in the caches
ACCELERATOR_BLOCK_ELEMENTS = 1 << 28  # 1 GiB; blocks of 4 MiB were 3 to 5 times slower on an H200


def pixel_correlation(
    cam: Any, feature: Any, epsilon: float = 1e-5, block_elements: int | None = None
) -> Any:
    """Each pixel's map values replaced by a mean over the pixels that look like it.

    The similarity of two pixels is the cosine of their features, negative ones cut to 0, and the
    weights of each mean sum to 1. Source: Wang et al., CVPR 2020 (SEAM), section 3.3, and the released
    code: the softmax and the residual of a non-local block are absent there and here.

    Computed in float32 whatever the precision of the inputs. Beyond inputs and outputs it takes a few
    times the memory of `block_elements`, at any size. It has no second derivative.

    Args:
        cam: float (batch, h, w, classes); resized (aligned corners) where its size is not the
            feature's.
        feature: float (batch, height, width, channels), not normalized.
        epsilon: > 0, added to the length of a feature and to the sum of a pixel's weights.
        block_elements: > 0, similarities held at once, over the whole batch. None: by the device,
            `CPU_BLOCK_ELEMENTS` or `ACCELERATOR_BLOCK_ELEMENTS`.

    Returns:
        float (batch, height, width, classes), dtype of `cam`.
    """
    batch, height, width, channels = ops.shape(feature)
    pixels, classes = height * width, cam.shape[-1]
    maps = resize_bilinear(ops.cast(cam, "float32"), (height, width), align_corners=True)
    maps = ops.reshape(maps, (batch, pixels, classes))
    maps = ops.concatenate([maps, ops.ones_like(maps[..., :1])], axis=-1)
    unit = ops.reshape(unit_vectors(ops.cast(feature, "float32"), epsilon), (batch, pixels, channels))
    block_elements = block_elements or default_block_elements(unit)
    sums = _similarity_product(maps, unit, _block_count(batch, pixels, block_elements))
    refined = sums[..., :classes] / (sums[..., classes:] + epsilon)
    return ops.cast(ops.reshape(refined, (batch, height, width, classes)), cam.dtype)


def default_block_elements(x: Any) -> int:
    """Similarities held at once on the device that computes on `x`."""
    if keras.backend.backend() == "torch":
        on_cpu = x.device.type in ("cpu", "meta")
    else:
        on_cpu = all(device.startswith("cpu") for device in keras.distribution.list_devices())
    return CPU_BLOCK_ELEMENTS if on_cpu else ACCELERATOR_BLOCK_ELEMENTS


def _similarity_product(values, features, count):
    """`relu(g gᵀ) @ values` of each image, (batch, pixels, …), in `count` by `count` blocks."""

    @ops.custom_gradient
    def product(values, features):
        v, g = _Blocks(values, count), _Blocks(features, count)

        def similarity(i, j):
            return ops.relu(ops.matmul(g[i], _transpose(g[j])))

        def forward(i, j):
            block = similarity(i, j)
            return ops.matmul(block, v[j]), _matmul_transposed(block, v[i])

        def gradient(*args, upstream=None):
            # Torch passes the inputs, and `upstream` by name; the others pass the upstream alone.
            u = _Blocks(args[0] if upstream is None else upstream, count)

            def backward(i, j):
                block = similarity(i, j)
                # Gradient of the block and of its mirror image across the diagonal, in one product.
                left, right = ops.concatenate([u[i], v[i]], -1), ops.concatenate([v[j], u[j]], -1)
                slope = ops.where(block > 0, ops.matmul(left, _transpose(right)), 0.0)
                to_i = [ops.matmul(block, u[j]), ops.matmul(slope, g[j])]
                to_j = [_matmul_transposed(block, u[i]), _matmul_transposed(slope, g[i])]
                return ops.concatenate(to_i, -1), ops.concatenate(to_j, -1)

            both = _sum_over_pairs(backward, ops.concatenate([values, features], -1), count)
            return both[..., : values.shape[-1]], both[..., values.shape[-1] :]

        return _sum_over_pairs(forward, values, count), gradient

    return product(values, features)


def _sum_over_pairs(pair, like, count):
    """Sum over pairs of blocks `i < j` of what `pair(i, j)` adds to both, and over the diagonal."""
    if isinstance(count, int) and count == 1:
        return pair(0, 0)[0]

    def add_row(i, total):
        def add_block(j, row, total):
            to_i, to_j = pair(i, j)
            row, total = row + to_i, _add(total, j, to_j)
            return _after(row, _after(total, j + 1)), row, total

        diagonal, _ = pair(i, i)
        _, row, total = ops.while_loop(lambda j, *_: j < count, add_block, (i + 1, diagonal, total))
        total = _add(total, i, row)
        return _after(total, i + 1), total

    start = (ops.convert_to_tensor(0, "int32"), ops.zeros_like(_Blocks(like, count).blocks))
    _, total = ops.while_loop(lambda i, *_: i < count, add_row, start)
    batch, pixels, channels = ops.shape(like)
    return ops.reshape(ops.transpose(total, (1, 0, 2, 3)), (batch, -1, channels))[:, :pixels]


def _add(total, index, block):
    changed = ops.take(total, index, axis=0) + block
    # A `slice_update` of TensorFlow would be compiled by XLA anew for each size of image.
    return ops.scatter_update(total, ops.reshape(index, (1, 1)), changed[None])


def _after(value, index):
    """`index`, known once `value` is; or TensorFlow begins iterations ahead, each with its own blocks."""
    return index + 0 * ops.cast(ops.isnan(ops.ravel(value)[0]), "int32")


class _Blocks:
    """Pixels (batch, pixels, channels) in `count` equal blocks, zeros at the end: they resemble nothing."""

    def __init__(self, values, count):
        batch, pixels, channels = ops.shape(values)
        length = -(-pixels // count)
        values = ops.pad(values, ((0, 0), (0, length * count - pixels), (0, 0)))
        blocks = ops.reshape(values, (batch, count, length, channels))
        self.blocks = ops.transpose(blocks, (1, 0, 2, 3))

    def __getitem__(self, index):
        return ops.take(self.blocks, index, axis=0)


def _block_count(batch, pixels, block_elements):
    """Blocks along one side, so that one block of the whole batch has about `block_elements`."""
    if isinstance(batch, Integral) and isinstance(pixels, Integral):
        return max(math.ceil(pixels * (batch / block_elements) ** 0.5), 1)
    ratio = ops.cast(batch, "float32") / block_elements
    return ops.cast(ops.ceil(ops.cast(pixels, "float32") * ops.sqrt(ratio)), "int32")


def _transpose(matrices):
    return ops.transpose(matrices, (0, 2, 1))


def _matmul_transposed(block, narrow):
    """`blockᵀ @ narrow`, without a transposed copy of the block."""
    return _transpose(ops.matmul(_transpose(narrow), block))
