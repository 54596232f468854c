"""The files that weights come in, one reader each; `read` chooses. Nothing in a file ever runs."""
