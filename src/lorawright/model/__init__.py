"""Base model and adapter as they are trained: loading, attention, loss, LoRA, dropout."""
