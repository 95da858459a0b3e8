"""How kernels are compiled, kept on disk and given vector instructions; no kernel itself."""
