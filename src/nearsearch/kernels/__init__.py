"""The only Numba code: plain kernels over arrays, which never validate and never raise."""
