"""English message → the same in the reader's language, from a gettext catalogue."""
