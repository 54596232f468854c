"""Hugging Face's transformers: Perceiver, and the resamplers and gated cross-attentions of other models."""
