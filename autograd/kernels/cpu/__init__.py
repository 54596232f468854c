"""Kernels for NumPy: blocks of rows and tiles of scores sized to a core's cache, spread over threads."""
