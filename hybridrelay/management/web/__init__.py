"""The dashboard: pages of HTML over the operations of the management API.

`table.PAGES` is a table, as that of the operations is: nothing is served outside of both. A page reads and changes
through operations (`visit.Visit.perform`), with the caller's own role and scope, so a page cannot show or do what the
API would refuse. Pages are made as trees (`html`), which escape everything, and are readable without JavaScript. The
scripts in ``static`` replace parts of a page by newer ones, as trees again, and never parse HTML.
"""

from __future__ import annotations
