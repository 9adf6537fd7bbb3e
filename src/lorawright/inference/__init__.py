"""Prompt ids → answers: streamed, in batches, and behind an OpenAI-compatible endpoint."""
