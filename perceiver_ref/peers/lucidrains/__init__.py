"""Phil Wang's packages: perceiver-pytorch, and flamingo-pytorch with its PaLM."""
