"""Coefficient images: a JPEG's quantised DCT coefficients, coded for SIMD unpacking instead of Huffman decoding."""
