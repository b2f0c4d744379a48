"""What is allowed in the private network. All such decisions are made by `Policy.decide`.

`decision.py`, `document.py`, `schema.py`, `toml_files.py` and `values.py` are pure.
"""

from .decision import Action as Action
from .decision import Decision as Decision
from .decision import Policy as Policy
from .decision import Resource as Resource
from .file import PolicyFile as PolicyFile
from .file import PolicyReading as PolicyReading
