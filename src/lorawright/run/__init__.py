"""A run on disk: folder, lock, checkpoints, facts and model card; takes plain values."""
