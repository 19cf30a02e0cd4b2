"""One step of an optimizer over flat vectors, in one pass, and the norm that clipping wants before it.

Rates are arrays, so that a schedule writes them in place. The vectors are a row of tensors: lengths and decayed (tensors,) say how
long each is and whether weight decay is for it. What is not asked for leaves no trace in the bits: share is 1, nothing is decayed.
"""

import math

import numpy as np

from distsgd.kernels.compiled import FLOAT, compiled, inlined
from distsgd.kernels.vector import LANES

CHAINS = 8 * LANES
"""Sums of a norm that grow side by side, so that none waits for its last addition."""
LEAST, NOTHING = FLOAT(2.0**-120), FLOAT(0)
"""A moment that is smaller is nothing: it would change no parameter by a rounding."""


@inlined
def moment(value):
    """The value that an optimizer keeps: of a weight whose gradient stays 0 moments shrink by the same factor again and again, down
    to subnormal numbers that round to themselves for ever. Processors multiply those slowly.
    """
    return NOTHING * value if abs(value) < LEAST else value  # 0 with its sign


@compiled("float64(real[::1], float64[::1])")
def norm(vector, chains):
    """The vector's 2-norm; not finite where one of its values is not.

    chains: (CHAINS,), room. Value i goes to chain i mod CHAINS, the chains in a fixed tree to LANES and to one: the same bits
    whatever the vector's width. Squares are exact in float64 and add up to far less than its largest number.
    """
    chains[:] = 0
    for first in range(0, vector.size, CHAINS):
        part = vector[first : min(first + CHAINS, vector.size)]
        for j in range(part.size):
            value = np.float64(part[j])
            chains[j] += value * value
    half = CHAINS // 2
    while half > 0:
        for j in range(half):
            chains[j] += chains[half + j]
        half //= 2
    return math.sqrt(chains[0])


@compiled(
    "void(real[::1], real[::1], real[::1], real[::1], boolean, int64[::1], boolean[::1])",
)
def sgd(parameters, gradient, velocity, rates, nesterov, lengths, decayed):
    """SGD with momentum: slope = share * gradient + decay * parameters; velocity = momentum * velocity + slope;
    parameters -= learning rate * velocity, or with `nesterov` learning rate * (slope + momentum * velocity).

    rates: (learning rate, momentum, share, decay). Written in place: parameters, velocity.
    """
    learning_rate, momentum, share, decay = rates[0], rates[1], rates[2], rates[3]
    first = 0
    for t in range(lengths.size):
        last, decays = first + lengths[t], decayed[t]
        p, g, v = parameters[first:last], gradient[first:last], velocity[first:last]
        for i in range(p.size):
            slope = share * g[i]
            slope = slope + decay * p[i] if decays else slope
            v[i] = moment(momentum * v[i] + slope)
            p[i] -= learning_rate * (slope + momentum * v[i] if nesterov else v[i])
        first = last


@compiled("void(real[::1], real[::1], real[::1], real[::1], real[::1], int64[::1], boolean[::1])")
def adam(parameters, gradient, mean, square, rates, lengths, decayed):
    """Adam (Kingma & Ba 2015, algorithm 1), bias correction folded into two of the rates, decay apart as in AdamW.

    rates: (learning rate / (1 - beta1**t), beta1, 1 - beta1, beta2, 1 - beta2, 1 / sqrt(1 - beta2**t), epsilon, share, decay);
    decay is the part of a parameter that goes in this step. Written in place: parameters, mean, square.
    """
    rate, beta1, rest1, beta2, rest2 = rates[0], rates[1], rates[2], rates[3], rates[4]
    root, epsilon, share, decay = rates[5], rates[6], rates[7], rates[8]
    first = 0
    for t in range(lengths.size):
        last, decays = first + lengths[t], decayed[t]
        p, g, m, v = parameters[first:last], gradient[first:last], mean[first:last], square[first:last]
        for i in range(p.size):
            slope = share * g[i]
            m[i] = moment(beta1 * m[i] + rest1 * slope)
            v[i] = moment(beta2 * v[i] + rest2 * (slope * slope))
            change = rate * m[i] / (math.sqrt(v[i]) * root + epsilon)
            p[i] -= change + decay * p[i] if decays else change
        first = last
