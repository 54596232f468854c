"""Perceiver AR: long sequences of tokens, predicted one after the other (Hawthorne et al. 2022, arXiv 2202.07765).

layers      causal cross-attention and self-attention, whose keys and values can be kept
model       the model, on whole sequences and continuing one
generation  drawing tokens one after the other
"""

from .generation import generate
from .layers import CausalCrossAttention, CausalSelfAttention, Kept
from .model import Memory, PerceiverAR

__all__ = ["CausalCrossAttention", "CausalSelfAttention", "Kept", "Memory", "PerceiverAR", "generate"]
