"""Vectors, functions, the matrix product and the tape: the only part of the library that knows numba."""
