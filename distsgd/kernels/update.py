"""One step of an optimizer over flat vectors. Rates are arrays, so that a schedule writes them in place."""

import math

from distsgd.kernels.compiled import compiled


@compiled("void(float32[::1], float32[::1], float32[::1], float32[::1])")
def sgd(parameters, gradient, velocity, rates):
    """SGD with momentum: velocity = momentum * velocity + gradient; parameters -= learning rate * velocity.

    rates: (learning rate, momentum). Written in place: parameters, velocity.
    """
    learning_rate, momentum = rates[0], rates[1]
    for i in range(parameters.size):
        velocity[i] = momentum * velocity[i] + gradient[i]
        parameters[i] -= learning_rate * velocity[i]


@compiled("void(float32[::1], float32[::1], float32[::1], float32[::1], float32[::1])")
def adam(parameters, gradient, mean, square, rates):
    """Adam (Kingma & Ba 2015, algorithm 1), bias correction folded into two of the rates.

    rates: (learning rate / (1 - beta1**t), beta1, 1 - beta1, beta2, 1 - beta2, 1 / sqrt(1 - beta2**t), epsilon).
    Written in place: parameters, mean, square.
    """
    rate, beta1, rest1, beta2, rest2, root, epsilon = (
        rates[0],
        rates[1],
        rates[2],
        rates[3],
        rates[4],
        rates[5],
        rates[6],
    )
    for i in range(parameters.size):
        g = gradient[i]
        mean[i] = beta1 * mean[i] + rest1 * g
        square[i] = beta2 * square[i] + rest2 * (g * g)
        parameters[i] -= rate * mean[i] / (math.sqrt(square[i]) * root + epsilon)
