"""docs/DEFAULTS.md: what frameworks do where a port leaves an argument out, made of a table.

rows    the table
plants  a case as it is with another default
page    the command, which prints the page
"""
