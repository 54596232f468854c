"""How large errors of correct arithmetic are, by dtype.

arithmetic   the reference computed in float32, tf32, float16 or bfloat16
steps        ops written out in the steps that other implementations round
envelope     the errors that this makes at each point of a case
"""
