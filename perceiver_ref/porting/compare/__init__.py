"""Comparing two dumps of traces: what matches what, the error by depth, the first divergence.

dumps      reading dumps, and the comparison of two
values     which arrays agree, whole or in parts
matching   by values and names, or by shape and order where nothing agrees
layouts    arrays that are the same but for the order of their axes
"""
