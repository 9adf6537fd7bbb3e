"""A run in several processes: launching them, joining them, files for accelerate and DeepSpeed."""
