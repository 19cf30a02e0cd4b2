"""From bytes of images, image by image, to a batch with the image innermost; on the way, windows of them at random places.

A small batch is written by the core that then computes with it: from a thread it would come later, and where no core is spare a
thread gains nothing at all (see training.prefetch). So the way into a batch is short; "data" in a run's table of seconds is what it
takes.
"""

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from distsgd.kernels.compiled import FLOAT, LLVM_FLOAT, SHIFT, compiled, inlined
from distsgd.kernels.order import mixed
from distsgd.kernels.vector import LANES

PIECE = 128
"""Bytes of an image, in whole rows, after which the next LANES images take their turn. By whole images, those of a batch of 128 or
256 would crowd a few sets of the cache; by single rows, each line of an image would be waited for alone.
"""

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
def _store_scaled(typing, block, scales, byte, x, places, row, used):
    """Write LANES bytes of a row of LANES images, from `byte` of it on, to x, a flat array whose row begins at `row`.

    Byte k goes to places[k] of the row, as (byte - scales[0, k]) * scales[1, k]; zeros to images beyond the first `used`.
    """

    def generate(context, builder, signature, args):
        number, length = ir.IntType(64), context.make_array(scales)(context, builder, args[1]).nitems
        inverse = builder.add(args[2], builder.udiv(length, ir.Constant(number, 2)))
        kept = _first(builder, args[6])
        for n in range(LANES):
            step = ir.Constant(number, n)
            at = builder.add(args[2], step)
            shift, scale = (
                _splat(builder, _value(context, builder, scales, args[1], builder.add(start, step)))
                for start in (args[2], inverse)
            )
            place = builder.add(args[5], _value(context, builder, places, args[4], at))
            source = _at(context, builder, block, args[0], ir.Constant(number, n * LANES), _BYTE)
            values = builder.uitofp(builder.load(source, align=1), _vector(_FLOAT))
            values = builder.fmul(builder.fsub(values, shift), scale)
            values = builder.select(kept, values, ir.Constant(values.type, None))
            builder.store(values, _at(context, builder, x, args[3], place, _FLOAT), align=1 << SHIFT)
        return context.get_dummy_value()

    return types.none(block, scales, byte, x, places, row, used), generate


def _value(context, builder, array_type, array, place):
    """The array's element at `place`."""
    first = context.make_array(array_type)(context, builder, array).data
    return builder.load(builder.gep(first, [place]))


def _splat(builder, scalar):
    undefined = ir.Constant(_vector(scalar.type), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INT, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(_INT), [0] * LANES))


def _first(builder, used):
    """Of LANES lanes the first `used`, all of them if that is more."""
    number = ir.Constant(_vector(_INT), list(range(LANES)))
    return builder.icmp_signed("<", number, _splat(builder, builder.trunc(used, _INT)))


@intrinsic
def _keep(typing, used, x, place):
    """Make zero what is beyond the first `used` of LANES values of x, a flat array, from `place` on; used may be negative."""

    def generate(context, builder, signature, args):
        kept = _first(builder, args[0])
        there = _at(context, builder, x, args[1], args[2], _FLOAT)
        zeros = ir.Constant(_vector(_FLOAT), None)
        values = builder.select(kept, builder.load(there, align=1 << SHIFT), zeros)
        builder.store(values, there, align=1 << SHIFT)
        return context.get_dummy_value()

    return types.none(used, x, place), generate


@inlined
def _fill_narrow(images, count, x, starts, places, scales):
    """Images whose rows are no block, byte by byte."""
    size, batch = places.size, starts.size
    for i in range(x.shape[1]):
        for byte in range(size):
            c, column = byte % x.shape[0], byte // x.shape[0] * batch
            for n in range(count):
                value = FLOAT(images[starts[n] + i * size + byte])
                x[c, i, column + n] = (value - scales[0, byte]) * scales[1, byte]


@compiled(
    "void(uint8[::1], int64[::1], int64[::1], int64, int64, real[:,::1], real[:,:,:],"
    " int64[::1], uint8[::1], int64[::1], real[:,::1], int64[::1])"
)
def fill(images, labels, order, first, count, scaling, x, starts, block, places, scales, y):
    """Write images order[first : first + count] into x and their labels into y; zeros beyond `count`.

    images: flat bytes, of an image (height, width, channel). x: (channels, height, width x batch), its last axis
    contiguous; the batch is y's and a multiple of LANES. scaling: (2, channels), mean and inverse of the deviation:
    x = (byte - mean) * inverse. Room, written here: a number an image in starts, LANES x LANES bytes in block, and for each
    byte of an image's row one number in places and two in scales.
    """
    channels, height, batch = x.shape[0], x.shape[1], y.size
    size, plane, row = places.size, x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    for n in range(batch):
        used = n < count
        y[n] = labels[order[first + n]] if used else 0
        starts[n] = order[first + n] * size * height if used else 0
    for byte in range(size):
        j, c = byte // channels, byte % channels
        places[byte] = c * plane + j * batch
        scales[0, byte], scales[1, byte] = scaling[0, c], scaling[1, c]
    if size >= LANES:
        rows = max(1, PIECE // size)
        for top in range(0, height, rows):
            for lane in range(0, count, LANES):
                for i in range(top, min(top + rows, height)):
                    for byte in range(0, size, LANES):
                        at = min(byte, size - LANES)  # the last block moves back over bytes done before
                        _turn_bytes(images, starts, lane, i * size + at, block)
                        _store_scaled(block, scales, at, x, places, i * row + lane, count - lane)
        filled = (count + LANES - 1) // LANES * LANES
    else:
        _fill_narrow(images, count, x, starts, places, scales)
        filled = count // LANES * LANES
    for lane in range(filled, batch, LANES):
        for c in range(channels):
            for i in range(height):
                for j in range(x.shape[2] // batch):
                    _keep(count - lane, x, c * plane + i * row + j * batch + lane)


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
            for c in range(channels):
                # Not in `sums` at once, which for all that a compiler knows are bytes of the images.
                total, squares = np.int64(0), np.int64(0)
                for j in range(width):
                    value = np.int64(images[s, i, j, c])
                    total += value
                    squares += value * value
                sums[0, c] += total
                sums[1, c] += squares
