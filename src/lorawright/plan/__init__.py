"""Config, chats and hardware → everything that is decided before a model is loaded; no torch."""
