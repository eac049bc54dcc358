"""A decoder for checkpoints in Llama's format, its texts, and the capture of its queries, keys and values."""
