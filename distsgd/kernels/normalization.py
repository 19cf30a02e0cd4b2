"""Local response normalization (Krizhevsky et al. 2012): a value is divided by a power of its neighbours' mean square.

    y[c] = x[c] / s[c]^beta    s[c] = k + alpha * mean of x[m]^2 over `size` channels m around c, zeros beyond the first and last

Memory is read once, a chunk of a row of one channel after another; what `size` channels give their neighbours stays in slots in the
nearest cache, one for every channel in turn. Powers come of products and sums, or of IEEE's roots and quotients, so bits are the
same on every processor that multiplies and adds in one instruction; the C library's power would not be, nor processors' own
estimates.
"""

from llvmlite import ir
from numba.extending import intrinsic

from distsgd.kernels import tile, vector
from distsgd.kernels.compiled import FLOAT, SHIFT, compiled, inlined
from distsgd.kernels.tile import cells_of, pack
from distsgd.kernels.vector import LANES, VECTOR
from distsgd.kernels.windows import REGISTERS

CHUNK = 256
"""Lanes of a row that take their turn: `size` channels of them, forward and back, fit the level-1 cache."""
NEXT = 3
"""Channels from the one in use to the one that is fetched meanwhile: its chunk is on another page, which no processor foresees."""
TOGETHER = 4
"""Registers that take every step of a power together: a chain of steps by itself would wait for each one's result."""
GROUP = TOGETHER * VECTOR
"""Lanes in them."""
DIGITS = 24
"""Binary digits behind the point of an exponent."""
QUARTER = 1 << DIGITS - 2
"""An exponent of 1/4. Powers to its multiples, as 3/4 is one, are had without roots and quotients, which take longer."""
BITS, MANTISSA, MOST = {2: (32, 23, 3.4e38), 3: (64, 52, 1.79e308)}[SHIFT]
"""Of a number: all, those of its fraction; and what is larger than any but infinity, or nearly."""
STEPS = SHIFT
"""From a guess to a root: two leave all digits of a float32, three those of a float64."""


@intrinsic
def _multiply(typing, left, right):
    """left * right, lane by lane."""

    def generate(context, builder, signature, args):
        pairs = zip(cells_of(builder, args[0]), cells_of(builder, args[1]), strict=True)
        return pack(builder, [builder.fmul(x, y) for x, y in pairs])

    return left(left, right), generate


@intrinsic
def _add_product(typing, total, left, right):
    """total + left * right, lane by lane."""

    def generate(context, builder, signature, args):
        totals, lefts, rights = (cells_of(builder, each) for each in args)
        cells = zip(lefts, rights, totals, strict=True)
        return pack(builder, [vector.multiply_add(builder, x, y, z) for x, y, z in cells])

    return total(total, left, right), generate


@intrinsic
def _inverse(typing, x):
    """1 / x, lane by lane."""

    def generate(context, builder, signature, args):
        one = ir.Constant(vector.REGISTER, [1.0] * vector.VECTOR)
        return pack(builder, [builder.fdiv(one, cell) for cell in cells_of(builder, args[0])])

    return x(x), generate


@intrinsic
def _root(typing, x):
    """The square root, lane by lane."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(vector.REGISTER, [vector.REGISTER])
        root = builder.module.declare_intrinsic(f"llvm.sqrt.v{vector.VECTOR}f{8 << SHIFT}", (), kind)
        return pack(builder, [builder.call(root, [cell]) for cell in cells_of(builder, args[0])])

    return x(x), generate


@intrinsic
def _guess(typing, x):
    """x^(-1/4) within 4 %, lane by lane: bits are nearly a logarithm (Blinn 1997), of which a quarter is taken from that of one."""

    def generate(context, builder, signature, args):
        whole = ir.VectorType(ir.IntType(BITS), vector.VECTOR)
        one = round(1.25 * ((1 << BITS - MANTISSA - 2) - 1 - 0.049) * 2**MANTISSA)
        numbers = [builder.bitcast(cell, whole) for cell in cells_of(builder, args[0])]
        quarters = [builder.lshr(number, ir.Constant(whole, [2] * vector.VECTOR)) for number in numbers]
        found = [builder.sub(ir.Constant(whole, [one] * vector.VECTOR), quarter) for quarter in quarters]
        return pack(builder, [builder.bitcast(number, vector.REGISTER) for number in found])

    return x(x), generate


@inlined
def _inverse_fourth_root(x):
    """x^(-1/4), for x > 0 and finite. Steps multiply by (1 - e)^(-1/4) = 1 + e/4 + 5e^2/32 + ..., e = 1 - x root^4."""
    root, one = _guess(x), tile.fill(x, FLOAT(1))
    minus = tile.scale(x, FLOAT(-1))
    for _ in range(STEPS):
        square = _multiply(root, root)
        away = _add_product(one, minus, _multiply(square, square))
        terms = _add_product(tile.fill(x, FLOAT(0.25)), tile.fill(x, FLOAT(0.15625)), away)
        root = _add_product(root, root, _multiply(terms, away))
    return root


@inlined
def _power(base, digits):
    """base to the power digits / 2**DIGITS, by products of the base and of its roots."""
    power, unit = tile.fill(base, FLOAT(1)), 1 << DIGITS
    for _ in range(digits >> DIGITS):
        power = _multiply(power, base)
    rest = digits & (unit - 1)
    while rest > 0:
        base, rest = _root(base), rest << 1
        if rest >= unit:
            power, rest = _multiply(power, base), rest - unit
    return power


@inlined
def _powers(scale, digits):
    """scale^(-digits / 2**DIGITS), and 1 / scale; zeros of infinity."""
    if digits % QUARTER > 0:
        inverse = _inverse(scale)
        return _power(inverse, digits), inverse
    root, zero, most = _inverse_fourth_root(scale), tile.fill(scale, FLOAT(0)), tile.fill(scale, FLOAT(MOST))
    root = tile.where_greater(scale, most, zero, root)
    square, power = _multiply(root, root), root
    for _ in range(digits // QUARTER - 1):
        power = _multiply(power, root)
    return power, _multiply(square, square)


@inlined
def _clear(slots, place, lanes):
    """Zeros from a place in the slots on: what is there of a channel beyond the first or last."""
    for j in range(0, lanes, LANES):
        tile.store(tile.zeros(1, REGISTERS), slots, place + j, 0)


@inlined
def _square(x, at, squares, place, lanes):
    """Put the squares of a channel, from place `at` of x on, into its slot: memory is read once, and one row at a time."""
    for j in range(0, lanes, LANES):
        value = tile.load(tile.zeros(1, REGISTERS), x, at + j, 0)
        tile.store(_multiply(value, value), squares, place + j, 0)


@inlined
def _sum_slots(zeros, slots, size, j):
    """The sum of what is in all slots for the lanes of a tile, given as one of zeros, from j on."""
    total = zeros
    for m in range(size):
        total = tile.add(total, slots, m * CHUNK + j, 0)
    return total


@inlined
def _scale(zeros, squares, size, share, k, j):
    """s for the lanes of a tile from j on, of the channel whose neighbours are in the slots."""
    return _add_product(tile.fill(zeros, k), tile.fill(zeros, share), _sum_slots(zeros, squares, size, j))


@inlined
def _finish(zeros, step, first, until, x, at, squares, numbers, y, to, soon):
    """A channel's lanes first..until of a chunk, `step` at a time: as many as a tile has, of which `zeros` is one."""
    size, share, k, digits = numbers
    for j in range(first, until, step):
        for line in range(j, j + step, LANES):
            vector.fetch(x, soon[0] + line)
            vector.fetch(y, soon[1] + line)
        power = _powers(_scale(zeros, squares, size, share, k, j), digits)[0]
        tile.store(_multiply(tile.load(zeros, x, at + j, 0), power), y, to + j, 0)


@inlined
def _spread(zeros, step, first, until, x, at, dy, given, squares, numbers, passed, place, dx, to, soon):
    """As in `_finish`: what a channel gives itself, into dx, and its neighbours, into its slot of `passed`."""
    size, share, k, digits = numbers
    for j in range(first, until, step):
        for line in range(j, j + step, LANES):
            vector.fetch(x, soon[0] + line)
            vector.fetch(dy, soon[1] + line)
            vector.fetch(dx, soon[2] + line)
        power, inverse = _powers(_scale(zeros, squares, size, share, k, j), digits)
        slope = _multiply(tile.load(zeros, dy, given + j, 0), power)
        tile.store(slope, dx, to + j, 0)
        value = tile.load(zeros, x, at + j, 0)
        tile.store(_multiply(_multiply(slope, inverse), value), passed, place + j, 0)


@inlined
def _gather(zeros, step, first, until, x, at, passed, size, factor, gated, dx, to):
    """As in `_finish`: add to a channel what its neighbours give it."""
    for j in range(first, until, step):
        total = _sum_slots(zeros, passed, size, j)
        total = tile.scale(_multiply(total, tile.load(zeros, x, at + j, 0)), factor)
        total = tile.add(total, dx, to + j, 0)
        if gated:
            total = tile.gate(total, x, at + j, 0)
        tile.store(total, dx, to + j, 0)


@compiled("void(real[:,:,:], int64, real, real, int64, real[:,::1], real[:,:,:])")
def normalize(x, size, share, k, digits, squares, y):
    """Write y, see the module's equation.

    x, y: (channels, height, width x batch), last axis contiguous; batches are multiples of LANES. share: alpha / size.
    digits: beta * 2**DIGITS. squares: room for a slot for each of `size` channels, (size, CHUNK).
    """
    channels, height, length = x.shape
    x_plane, x_line = x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    y_plane, y_line = y.strides[0] >> SHIFT, y.strides[1] >> SHIFT
    ahead, numbers = (size - 1) // 2, (size, share, k, digits)
    few, many = tile.zeros(1, REGISTERS), tile.zeros(1, TOGETHER)

    def look(c, at, lanes):
        """Let the squares of channel c take the place of those that are `size` channels back."""
        place = c % size * CHUNK
        if c < channels:
            _square(x, at + c * x_plane, squares, place, lanes)
        else:
            _clear(squares, place, lanes)

    def finish(c, at, to, lanes):
        """Channel c of a chunk of lanes."""
        whole, at, to = lanes - lanes % GROUP, at + c * x_plane, to + c * y_plane
        soon = at + (ahead + NEXT) * x_plane, to + NEXT * y_plane
        _finish(many, GROUP, 0, whole, x, at, squares, numbers, y, to, soon)
        _finish(few, LANES, whole, lanes, x, at, squares, numbers, y, to, soon)

    for i in range(height):
        for first in range(0, length, CHUNK):
            lanes, at, to = min(CHUNK, length - first), i * x_line + first, i * y_line + first
            _clear(squares, 0, size * CHUNK)
            for c in range(channels + ahead):
                look(c, at, lanes)
                if c >= ahead:
                    finish(c - ahead, at, to, lanes)


@compiled(
    "void(real[:,:,:], real[:,:,:], int64, real, real, real, int64, boolean, real[:,::1], real[:,::1], real[:,:,:])"
)
def normalize_gradient(x, dy, size, share, k, beta, digits, gated, squares, passed, dx):
    """Write dx[c] = dy[c] / s[c]^beta - 2 beta share x[c] * sum of dy[m] x[m] / s[m]^(beta + 1), over m that c is a neighbour of.

    x, dy, dx: as y in `normalize`. With `gated`, x was rectified: where it is not positive nothing goes back.
    squares, passed: room for slots as there; what goes to neighbours waits in `passed`.
    """
    channels, height, length = x.shape
    x_plane, x_line = x.strides[0] >> SHIFT, x.strides[1] >> SHIFT
    dy_plane, dy_line = dy.strides[0] >> SHIFT, dy.strides[1] >> SHIFT
    plane, line = dx.strides[0] >> SHIFT, dx.strides[1] >> SHIFT
    factor, ahead, behind = FLOAT(-2) * beta * share, (size - 1) // 2, size // 2
    numbers, few, many = (size, share, k, digits), tile.zeros(1, REGISTERS), tile.zeros(1, TOGETHER)

    def look(c, at, lanes):
        """As in `normalize`."""
        place = c % size * CHUNK
        if c < channels:
            _square(x, at + c * x_plane, squares, place, lanes)
        else:
            _clear(squares, place, lanes)

    def spread(c, at, given, to, lanes):
        """What channel c gives itself and its neighbours."""
        place = c % size * CHUNK
        if c >= channels:
            _clear(passed, place, lanes)
            return
        at, given, to = at + c * x_plane, given + c * dy_plane, to + c * plane
        whole = lanes - lanes % GROUP
        soon = at + (ahead + NEXT) * x_plane, given + NEXT * dy_plane, to + NEXT * plane
        _spread(many, GROUP, 0, whole, x, at, dy, given, squares, numbers, passed, place, dx, to, soon)
        _spread(few, LANES, whole, lanes, x, at, dy, given, squares, numbers, passed, place, dx, to, soon)

    def gather(c, at, to, lanes):
        """What channel c's neighbours give it."""
        whole, at, to = lanes - lanes % GROUP, at + c * x_plane, to + c * plane
        _gather(many, GROUP, 0, whole, x, at, passed, size, factor, gated, dx, to)
        _gather(few, LANES, whole, lanes, x, at, passed, size, factor, gated, dx, to)

    for i in range(height):
        for first in range(0, length, CHUNK):
            lanes, at, to = min(CHUNK, length - first), i * x_line + first, i * line + first
            _clear(squares, 0, size * CHUNK)
            _clear(passed, 0, size * CHUNK)
            for c in range(channels + ahead + behind):
                look(c, at, lanes)
                if c >= ahead:
                    spread(c - ahead, at, i * dy_line + first, to, lanes)
                if c >= ahead + behind:
                    gather(c - ahead - behind, at, to, lanes)
