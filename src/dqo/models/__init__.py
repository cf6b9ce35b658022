"""Sampling from a causal language model with the prompt of a group read once; torch and transformers only."""
