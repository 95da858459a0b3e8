"""Packed coefficients: the quantised DCT coefficients of a JPEG, coded for SIMD unpacking instead of Huffman decoding."""
