"""Measures this machine: how long kernels, batches and averages take here. What is found is kept in a file and found again."""
