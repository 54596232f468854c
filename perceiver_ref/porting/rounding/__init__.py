"""Arithmetic in narrower formats, as other implementations round.

arithmetic   the reference computed in float32, tf32, float16 or bfloat16
steps        ops written out in the steps that other implementations round
attention    the same of attention
grid         whether numbers are those of a format
"""
