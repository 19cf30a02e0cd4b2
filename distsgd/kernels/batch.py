"""From bytes of images, image by image, to a batch with the image innermost; on the way, windows of them at random places.

A small batch is written by the core that then computes with it: from a thread it would come later, and where no core is spare a
thread gains nothing at all (see training.prefetch). So the way into a batch is short; "data" in a run's table of seconds is what it
takes.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels.compiled import FLOAT, LLVM_FLOAT, REAL, SHIFT, compiled, inlined
from distsgd.kernels.order import mixed
from distsgd.kernels.vector import LANES

_BYTE, _INT, _FLOAT = ir.IntType(8), ir.IntType(32), LLVM_FLOAT


def _vector(element, lanes=LANES):
    return ir.VectorType(element, lanes)


def _at(context, builder, array_type, array, place, element, lanes=LANES):
    """Where the array's bytes from element `place` on are, as a vector."""
    first = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(first, [place]), _vector(element, lanes).as_pointer())


@intrinsic
def _turn_bytes(typing, images, starts, lane, offset, block):
    """Write LANES bytes, from `offset` on, of the images that begin at starts[lane : lane + LANES] to the block: a row a byte."""

    def generate(context, builder, signature, args):
        number, rows = ir.IntType(64), []
        begins = builder.load(_at(context, builder, starts, args[1], args[2], number), align=8)
        for n in range(LANES):
            place = builder.add(builder.extract_element(begins, ir.Constant(_INT, n)), args[3])
            rows.append(builder.load(_at(context, builder, images, args[0], place, _BYTE), align=1))
        for _ in range(4):  # of 2**4 lanes: each time a bit of the row's number becomes the column's lowest
            pairs = list(zip(rows[: LANES // 2], rows[LANES // 2 :], strict=True))
            rows = [builder.shuffle_vector(*pair, _interleaved(half)) for pair in pairs for half in (0, 1)]
        for n, row in enumerate(rows):
            place = ir.Constant(number, n * LANES)
            builder.store(row, _at(context, builder, block, args[4], place, _BYTE), align=1)
        return context.get_dummy_value()

    return types.none(images, starts, lane, offset, block), generate


def _interleaved(half):
    """One lane of the left, one of the right, in turn, of their lower or upper half."""
    lanes = [half * LANES // 2 + k // 2 + k % 2 * LANES for k in range(LANES)]
    return ir.Constant(_vector(_INT), lanes)


@intrinsic
def _store_scaled(typing, block, row, mean, inverse, x, place):
    """Write (byte - mean) * inverse of the block's row to x, a flat array, from `place` on."""

    def generate(context, builder, signature, args):
        first = builder.mul(args[1], ir.Constant(args[1].type, LANES))
        loaded = builder.load(_at(context, builder, block, args[0], first, _BYTE), align=1)
        values = builder.uitofp(loaded, _vector(_FLOAT))
        values = builder.fmul(builder.fsub(values, _splat(builder, args[2])), _splat(builder, args[3]))
        builder.store(values, _at(context, builder, x, args[4], args[5], _FLOAT), align=1 << SHIFT)
        return context.get_dummy_value()

    return types.none(block, row, REAL, REAL, x, place), generate


def _splat(builder, scalar):
    undefined = ir.Constant(_vector(_FLOAT), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(_INT), [0] * LANES))


@compiled(
    "void(uint8[::1], int64, int64[::1], int64[::1], int64, int64, real[:,::1], real[:,:,:],"
    " int64[::1], uint8[::1], int64[::1])"
)
def fill(images, size, labels, order, first, count, scaling, x, starts, block, y):
    """Write images order[first : first + count] into x and their labels into y; zeros beyond `count`.

    images: flat bytes, `size` to an image, in it (height, width, channel). x: (channels, height, width x batch), its last axis
    contiguous; the batch is y's and a multiple of LANES. scaling: (2, channels), mean and inverse of the deviation:
    x = (byte - mean) * inverse. starts: room for a number an image; block: for LANES x LANES bytes.
    """
    channels, height, batch = x.shape[0], x.shape[1], y.size
    width, plane, row = x.shape[2] // batch, x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    for n in range(batch):
        used = n < count
        y[n] = labels[order[first + n]] if used else 0
        starts[n] = order[first + n] * size if used else 0
    rows = min(size, LANES)
    for lane in range(0, count, LANES):
        for byte in range(0, size, LANES):
            at = max(0, min(byte, size - LANES))  # the last block moves back over bytes done before
            if size >= LANES:
                _turn_bytes(images, starts, lane, at, block)
            else:
                for k in range(size):
                    for n in range(LANES):
                        block[k * LANES + n] = images[starts[lane + n] + k]
            pixel, c = at // channels, at % channels
            i, j = pixel // width, pixel % width
            place = c * plane + i * row + j * batch + lane
            for k in range(rows):
                _store_scaled(block, k, scaling[0, c], scaling[1, c], x, place)
                c, place = c + 1, place + plane
                if c == channels:
                    c, j, place = 0, j + 1, place + batch - channels * plane
                    if j == width:
                        j, place = 0, place + row - width * batch
    if count < batch:
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    for n in range(count, batch):
                        x[c, i, j * batch + n] = FLOAT(0)


@intrinsic(prefer_literal=True)
def _copy(typing, source, at, target, to, size, backward):
    """Copy `size` bytes (a constant) from `at` of the source to `to` of the target, in turned order if `backward` is 1."""
    lanes, turned = size.literal_value, backward.literal_value

    def generate(context, builder, signature, args):
        values = builder.load(_at(context, builder, source, args[0], args[1], _BYTE, lanes), align=1)
        if turned:
            order = ir.Constant(_vector(_INT, lanes), list(range(lanes))[::-1])
            values = builder.shuffle_vector(values, ir.Constant(values.type, ir.Undefined), order)
        builder.store(values, _at(context, builder, target, args[2], args[3], _BYTE, lanes), align=1)
        return context.get_dummy_value()

    return types.none(source, at, target, to, size, backward), generate


@inlined
def _copy_row(images, source, parts, target, pixels, channels, mirrored):
    """Copy pixels one behind the other, from flat place `source` of images to `target` of parts, or the last first."""
    size = pixels * channels
    if mirrored and channels > 1:
        for j in range(pixels):
            for c in range(channels):
                _copy(
                    images, source + j * channels + c, parts, target + (pixels - 1 - j) * channels + c, 1, 0
                )
    elif size < LANES:
        for k in range(size):
            _copy(images, source + k, parts, target + (size - 1 - k if mirrored else k), 1, 0)
    else:
        for block in range(0, size, LANES):
            k = min(block, size - LANES)  # the last block moves back over bytes done before
            if mirrored:
                _copy(images, source + k, parts, target + size - LANES - k, LANES, 1)
            else:
                _copy(images, source + k, parts, target + k, LANES, 0)


@inlined
def _inside(left, columns, width):
    """From which to which of its columns a window lies inside an image of that width."""
    low = min(columns, max(0, -left))
    return low, max(low, min(columns, width - left))


WINDOWS = 2**32
"""Part of the key of the random stream of windows, where dropout's streams have a layer's number."""


@compiled("void(uint64[::1], int64, int64, int64, int64, boolean, int64[:,::1])")
def draw_windows(draw, first, down, right, shift, mirror, windows):
    """Write where windows of images lie, (images, 3): top, left, and whether they are mirrored.

    top is any of -shift..down + shift, left of -shift..right + shift, each as likely. They depend on draw (seed, worker, epoch) and
    the image's place in the epoch alone, which is first.. here: neither on the batch nor on the machine.
    """
    key = mixed(mixed(mixed(mixed(draw[0]) + draw[1]) + draw[2]) + np.uint64(WINDOWS))
    mask, tops, lefts = (
        np.uint64(2**21 - 1),
        np.uint64(down + 2 * shift + 1),
        np.uint64(right + 2 * shift + 1),
    )
    for n in range(windows.shape[0]):
        chance = mixed(key + np.uint64(first + n) * np.uint64(0x9E3779B97F4A7C15))
        windows[n, 0] = np.int64((chance >> np.uint64(43)) * tops >> np.uint64(21)) - shift
        windows[n, 1] = np.int64((chance >> np.uint64(22) & mask) * lefts >> np.uint64(21)) - shift
        windows[n, 2] = np.int64(mirror and chance & np.uint64(1) == np.uint64(1))


@compiled(
    "void(uint8[:,:,:,::1], int64[::1], int64[::1], int64, int64, int64[:,::1], uint8[:,:,:,::1], int64[::1])"
)
def cut(images, labels, order, first, count, windows, parts, y):
    """Write the windows of images order[first : first + count] to parts (image, height, width, channel), their labels to y.

    windows: see `draw_windows`. What lies outside of an image is left as it was: `blank` makes it zero in the batch.
    """
    _, height, width, channels = images.shape
    _, rows, columns, _ = parts.shape
    for n in range(count):
        image, top, left, mirrored = order[first + n], windows[n, 0], windows[n, 1], windows[n, 2] > 0
        y[n] = labels[image]
        low, high = _inside(left, columns, width)
        for i in range(max(0, -top), min(rows, height - top)):
            source = ((image * height + top + i) * width + left + low) * channels
            target = ((n * rows + i) * columns + (columns - high if mirrored else low)) * channels
            _copy_row(images, source, parts, target, high - low, channels, mirrored)


@compiled("void(int64[:,::1], int64, int64, int64, int64, real[:,:,:])")
def blank(windows, count, height, width, batch, x):
    """Make zero, which is the mean, what of the first `count` windows lies outside of their images of height x width.

    x: (channels, height of a window, its width x batch), its last axis contiguous.
    """
    channels, rows, columns = x.shape[0], x.shape[1], x.shape[2] // batch
    for n in range(count):
        top, left = windows[n, 0], windows[n, 1]
        low, high = _inside(left, columns, width)
        if windows[n, 2]:
            low, high = columns - high, columns - low
        for i in range(rows):
            inside = 0 <= top + i < height
            for c in range(channels):
                for j in range(low if inside else columns):
                    x[c, i, j * batch + n] = FLOAT(0)
                for j in range(high if inside else columns, columns):
                    x[c, i, j * batch + n] = FLOAT(0)


@compiled("void(uint8[:,:,:,::1], int64[:,::1])")
def moments(images, sums):
    """Add to sums (2, channels) the sum of the bytes and of their squares, per channel: exact, in any order."""
    samples, height, width, channels = images.shape
    for s in range(samples):
        for i in range(height):
            for j in range(width):
                for c in range(channels):
                    value = np.int64(images[s, i, j, c])
                    sums[0, c] += value
                    sums[1, c] += value * value
