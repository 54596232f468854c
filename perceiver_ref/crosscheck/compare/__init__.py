"""Comparing two dumps of traces: what matches what, the error by depth, the first divergence.

dumps      reading dumps, and the comparison of two
matching   by name, or by shape, order and values where names differ
layouts    arrays that are the same but for the order of their axes
"""
