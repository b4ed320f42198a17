"""Vectors, functions, the matrix product and the tape: the only part that knows numba."""
