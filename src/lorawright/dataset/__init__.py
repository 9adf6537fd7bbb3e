"""Config → encoded chats on disk, made once and kept by content; no torch."""
