"""Ways to convolve, from loops in Python to ours, as the source documents compared them."""
