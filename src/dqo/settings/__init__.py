"""How text becomes a checked setting."""

# Measures the diversity of responses where nothing else is said; imported by the parser, so without torch.
DEFAULT_ENCODER = "all-MiniLM-L6-v2"
