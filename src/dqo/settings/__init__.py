"""How text becomes a checked setting."""
