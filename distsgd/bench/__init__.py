"""The product's benchmarks, one file each."""
