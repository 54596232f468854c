"""Postprocessors: decoder outputs -> what the task asks for."""

from .embedding import TiedEmbedding

__all__ = ["TiedEmbedding"]
