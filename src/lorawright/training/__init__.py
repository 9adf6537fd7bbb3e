"""Run plan → trained adapter: the trainer, its batches, and what a run writes."""
