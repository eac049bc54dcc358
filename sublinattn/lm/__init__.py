"""A decoder in Llama's checkpoint format on NumPy or CuPy, its data, and the capture of its queries, keys and values."""
