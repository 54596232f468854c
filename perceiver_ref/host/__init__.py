"""What the machine gives: files written whole or not at all, signals, memory, JSON that pays for its size.

files       reading and writing, temporaries
contents    what a file is, by its first bytes
json_text   JSON from anywhere, bounded
signals     Ctrl-C and its like as exceptions, held back while something must not be half done
memory      how much there is, and refusing what needs more
"""
