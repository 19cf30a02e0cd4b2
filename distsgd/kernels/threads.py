"""Lists of kernels that run without the interpreter: in one thread, where it takes 1 to 2 us between two kernels, or in several
together, each its part, where it would let only one go on.

A list is words of 64 bits, a word or several for every argument::

    number of the kernel's signature, words to the next entry, its machine code, arguments ...      call it
    MEET                                                                      wait for the others
    END                                                                       the list is done

Only what follows a MEET may read what others wrote before it. `team` is an array of words that all threads share:
those of the whole, and then a line for each thread. Threads wait turning, then giving way to other processes; one that
nobody asks for long returns to the interpreter, where it can sleep.
"""

import struct
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distsgd.kernels import (
    band_pairs,
    band_rows,
    normalization,
    order,
    pairs,
    patch_filters,
    patch_outputs,
    patches,
    pool,
    rows,
    shallow_pairs,
    shallow_rows,
    update,
)
from distsgd.kernels.compiled import compiled, inlined
from distsgd.kernels.waiting import LINE as LINE
from distsgd.kernels.waiting import TURNS, YIELDS, add, give_way, load, nap, put, turn

KERNELS: tuple[Any, ...] = (
    *(rows.sum_rows, band_rows.spread_filters, band_rows.sum_bands),
    *(pairs.sum_pairs, pairs.sum_lanes, band_pairs.pair_bands, band_pairs.gather_filters),
    *(shallow_rows.spread_filters, shallow_rows.sum_shallow, shallow_pairs.pair_shallow),
    *(
        patch_filters.spread_filters,
        patches.spread_patches,
        patches.multiply_points,
        patch_outputs.gather_patches,
    ),
    *(patches.unpool_piece, patches.spread_slopes, patches.pair_points, patch_filters.gather_filters),
    *(pool.max_pool, pool.max_pool_gradient, pool.average_pool, pool.average_pool_gradient),
    *(normalization.normalize, normalization.normalize_gradient),
    *(
        order.transpose,
        order.first_columns,
        order.turn_filters,
        order.drop,
        order.copy,
        order.pass_back,
        order.clear,
        update.sgd,
        update.adam,
    ),
)
"""What a list may call."""
_COMPILED = {kernel: next(iter(kernel.overloads.values())) for kernel in KERNELS}
_SIGNATURES = list(dict.fromkeys(found.signature for found in _COMPILED.values()))

ASKED, ARRIVED, FAILED, OWN = 0, LINE, 2 * LINE, 3 * LINE
"""Words of a team: lists asked for so far; arrivals at all meetings; the entry that failed, or STOPPED; the first thread's line."""
LIST, SEEN, MET, ASLEEP = 0, 1, 2, 3
"""Words of a thread's line: where its list is, the lists it was asked for, its meetings so far, whether it is to be woken."""
MEET, END = -1, -2
STOPPED = -1
_WORD, _INT = ir.IntType(64), ir.IntType(32)


@intrinsic
def _word(typing, place):
    """The word at an address."""

    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], _WORD.as_pointer()))

    return types.int64(place), generate


@intrinsic
def _call(typing, number, place):
    """Call a kernel with the signature of that number; its machine code and arguments are at an address. Whether it went well."""

    def generate(context, builder, signature, args):
        first = builder.inttoptr(args[1], _WORD.as_pointer())
        went = cgutils.alloca_once_value(builder, cgutils.false_bit)
        behind = builder.append_basic_block("behind")
        switch = builder.switch(args[0], behind)
        for number, kernel in enumerate(_SIGNATURES):
            block = builder.append_basic_block(f"signature{number}")
            switch.add_case(ir.Constant(_WORD, number), block)
            builder.position_at_end(block)
            values, word = [], 1
            for kind in kernel.args:
                at = builder.gep(first, [ir.Constant(_INT, word)])
                at = builder.bitcast(at, context.get_data_type(kind).as_pointer())
                values.append(context.unpack_value(builder, kind, at))
                word += _words(kind)
            code = context.call_conv.get_function_type(types.none, kernel.args).as_pointer()
            code = builder.inttoptr(builder.load(first), code)
            status, _ = context.call_conv.call_function(builder, code, types.none, kernel.args, values)
            builder.store(status.is_ok, went)
            builder.branch(behind)
        builder.position_at_end(behind)
        return builder.load(went)

    return types.boolean(number, place), generate


def _words(kind):
    """How many an argument takes: of an array two that stay empty, length, size of a value, address, shape, strides."""
    return 5 + 2 * kind.ndim if isinstance(kind, types.Array) else 1


def written(steps: Sequence[Sequence[tuple[Any, tuple[Any, ...]]]]) -> np.ndarray:
    """One thread's calls of KERNELS as words, which the arrays must outlive. After each step, of any number of calls, all meet.

    TypeError where an argument is not as the kernel wants it.
    """
    words: list[int] = []
    for step in steps:
        for call in step:
            words += _entry(*call)
        words.append(MEET)
    return np.array([*words, END], np.int64)


def _entry(kernel, arguments):
    number, code, kinds = _called(kernel)
    if len(kinds) != len(arguments):
        raise TypeError(f"{kernel.__name__}: {len(arguments)} arguments, wanted {len(kinds)}")
    words = []
    for kind, value in zip(kinds, arguments):
        words += _array(kernel, kind, value) if isinstance(kind, _Array) else _scalar(kind, value)
    return [number, 3 + len(words), code, *words]


class _Array(NamedTuple):
    """What an argument must be."""

    dtype: np.dtype
    dimensions: int
    contiguous: bool


@cache
def _called(kernel):
    """A kernel's signature's number, where its code is, and of each argument an `_Array` or how a number is packed."""
    kinds = [
        _Array(np.dtype(kind.dtype.name), kind.ndim, kind.layout == "C")
        if isinstance(kind, types.Array)
        else struct.Struct(_FORMATS[kind.name]).pack
        for kind in _COMPILED[kernel].signature.args
    ]
    return _SIGNATURES.index(_COMPILED[kernel].signature), _code(kernel), kinds


_FORMATS = {"bool": "?", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}


def _code(kernel):
    """Where its machine code is."""
    found = _COMPILED[kernel]
    return found.library.get_pointer_to_function(found.fndesc.llvm_func_name)


def _scalar(pack, value):
    return [int.from_bytes(pack(value), "little", signed=True)]


def _array(kernel, wanted, value):
    fits = isinstance(value, np.ndarray) and (value.dtype, value.ndim) == wanted[:2]
    if not fits or (wanted.contiguous and not value.flags.c_contiguous):
        raise TypeError(f"{kernel.__name__}: an array does not fit {wanted}")
    return [0, 0, value.size, value.itemsize, value.ctypes.data, *value.shape, *value.strides]


def name(entry: int, words: np.ndarray) -> str:
    """Of the kernel that an entry calls, given the list that it is in."""
    code = words[(entry - words.ctypes.data) // 8 + 2]
    return next(kernel.__name__ for kernel in KERNELS if _called(kernel)[1] == code)


@inlined
def _own(thread):
    """Where a thread's line begins."""
    return OWN + thread * LINE


@inlined
def _meet(team, thread):
    """Wait until all threads have come as often as this one; False where the team has failed or ends."""
    met = _own(thread) + MET
    team[met] += 1
    all_there, looks = team[met] * ((team.size - OWN) // LINE), 0
    add(team, ARRIVED, 1)
    while load(team, ARRIVED) < all_there:
        if load(team, FAILED) != 0:
            return False
        looks += 1
        if looks < TURNS:
            turn()
        elif looks < TURNS + YIELDS // 10:
            give_way()
        else:
            nap()
    return True


@compiled("boolean(int64[::1], int64, int64)")
def run(team, thread, place):
    """Run a thread's list, which is at an address. False where the team has failed: what was to be written is not."""
    while True:
        number = _word(place)
        if number == END:
            return True
        if number == MEET:
            if not _meet(team, thread):
                return False
            place += 8
        else:
            if not _call(number, place + 16):
                put(team, FAILED, place)
                return False
            place += 8 * _word(place + 8)


@compiled("int64(int64[::1])")
def ask(team):
    """Have the other threads run the lists that stand in their lines. Returns how many must be woken for it."""
    add(team, ASKED, 1)
    asleep = 0
    for thread in range(1, (team.size - OWN) // LINE):
        asleep += load(team, _own(thread) + ASLEEP)
    return asleep


@compiled("void(int64[::1], int64)")
def stop(team, entry):
    """End the team: every thread leaves its list. entry: the one that failed, or STOPPED."""
    put(team, FAILED, entry)


@compiled("boolean(int64[::1], int64)")
def serve(team, thread):
    """Run lists as they are asked for. Returns True where there was none for long, to sleep, and False where the team ends."""
    own, looks = _own(thread), 0
    while True:
        if load(team, FAILED) != 0:
            return False
        if load(team, ASKED) != team[own + SEEN]:
            team[own + SEEN] += 1
            looks = 0
            if not run(team, thread, team[own + LIST]):
                return False
        elif looks < TURNS:
            looks += 1
            turn()
        elif looks < TURNS + YIELDS:
            looks += 1
            give_way()
        else:
            put(team, own + ASLEEP, 1)
            if load(team, ASKED) == team[own + SEEN]:
                return True
            put(team, own + ASLEEP, 0)
            looks = 0
