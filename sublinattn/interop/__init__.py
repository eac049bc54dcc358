"""Other people's models: `sublinattn.interop.transformers` for those of Hugging Face (extra `hf`)."""
