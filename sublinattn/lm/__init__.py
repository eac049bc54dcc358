"""A decoder in Llama's checkpoint format on NumPy or CuPy, its data, and capture of its queries, keys and values."""
