"""A run for other programs: GGUF files, an Ollama model, an adapter that vLLM serves."""
