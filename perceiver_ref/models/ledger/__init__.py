"""What a model costs, layer by layer: shapes, parameters, FLOPs and activation memory, before it is ever run.

The model itself runs on arrays without elements (`sketch`), and each op that it calls is counted (`costs`): nothing is
written down twice, and whatever `apply` accepts has a ledger.

sketch      arrays that have a shape and no elements
record      one run of a model as a list of named steps
costs       the papers' rule for FLOPs; attention's working memory
memory      what is kept for the way back, and what is alive at once
table       rows, totals: `ledger(model, inputs)`
sizes       the inputs of a model from the shape of one example
printed     what the papers print, and why it may differ
"""

from .costs import RULE
from .sizes import default_sizes, example, parse_sizes
from .table import Ledger, Row, ledger

__all__ = ["RULE", "Ledger", "Row", "default_sizes", "example", "ledger", "parse_sizes"]
