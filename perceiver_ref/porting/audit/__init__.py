"""Which known deviations a set of cases tells apart, and which no case would notice.

trial    what every deviation does to one case
alike    which of them do the same
equal    what is equal in exact arithmetic, with the reasons
matrix   models x deviations: what is told apart, and what is missed
cover    the smallest set of cases
table    the same for people and for machines
"""

from .matrix import Audit, CaseAudit, ModelAudit, audited
from .trial import PLAINLY

__all__ = ["PLAINLY", "Audit", "CaseAudit", "ModelAudit", "audited"]
