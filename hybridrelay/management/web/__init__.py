"""The dashboard: pages of HTML over the operations of the management API.

`table.PAGES` lists all pages, as the table of operations lists all operations; nothing else is served. A page reads
and changes everything through operations (`visit.Visit.perform`), with the role and scope of the caller, so that a
page cannot show or do anything that the API would refuse. Pages are built as trees of elements (`html`), in which all
text is escaped, and can be read without JavaScript. The scripts in ``static`` replace parts of a page with newer
ones, which they also get as trees, and never parse HTML.
"""

from __future__ import annotations
