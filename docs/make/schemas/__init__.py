"""JSON Schemas of what is exchanged: meta of a case, configurations by class, and every --json report.

meta     what a case says of itself
configs  configurations: of peers from the tables of options that their classes read, of our own from dataclass fields
reports  what commands write with --json
write    the command, which writes docs/schemas
"""

DRAFT = "https://json-schema.org/draft/2020-12/schema"
