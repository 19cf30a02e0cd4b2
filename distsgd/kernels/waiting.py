"""Words that threads and processes share: they are read and written in order, and waited for without the interpreter.

Who waits turns, then gives way to others, then leaves the core for a while: who is waited for may need it.
"""

import platform

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from distsgd.kernels import vector

LINE = 8
"""Words of a line of the cache: threads that write to one would wait for each other."""
TURNS, YIELDS, NAP = 2000, 4000, 50
"""Looks before a thread gives way to others, some 50 us; and how often it does before it sleeps, a millisecond or more. One that
waits for others within a list gives way a tenth as often, as they have no core if they are late, and naps for so many us."""

_INT = ir.IntType(32)


def _at(context, builder, array_type, array, place):
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [place])


@intrinsic
def load(typing, team, place):
    """The word, and all that was written before it was."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_at(context, builder, team, args[0], args[1]), "seq_cst", 8)

    return types.int64(team, place), generate


@intrinsic
def add(typing, team, place, value):
    """Add to the word, after all that was written before."""

    def generate(context, builder, signature, args):
        where = _at(context, builder, team, args[0], args[1])
        builder.atomic_rmw("add", where, args[2], "seq_cst")
        return context.get_dummy_value()

    return types.none(team, place, value), generate


@intrinsic
def put(typing, team, place, value):
    """Write the word, before anything that is read behind."""

    def generate(context, builder, signature, args):
        builder.atomic_rmw("xchg", _at(context, builder, team, args[0], args[1]), args[2], "seq_cst")
        return context.get_dummy_value()

    return types.none(team, place, value), generate


@intrinsic
def turn(typing):
    """Tell the core that this is a wait."""

    def generate(context, builder, signature, args):
        if platform.machine().lower() in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        else:
            vector.keep_order(builder)
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def give_way(typing):
    """Let another thread or process have the core, if any wants it."""

    def generate(context, builder, signature, args):
        kind = ir.FunctionType(_INT, [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.none(), generate


@intrinsic
def nap(typing):
    """Leave the core for NAP microseconds, so that who is waited for gets it: giving way, it would get a part of it only."""

    def generate(context, builder, signature, args):
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_INT, [_INT]), "usleep")
        builder.call(function, [ir.Constant(_INT, NAP)])
        return context.get_dummy_value()

    return types.none(), generate
