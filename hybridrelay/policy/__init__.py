"""What is allowed in the private network. All such decisions are made by `Policy.decide`.

`decision.py`, `document.py`, `index.py`, `managed.py`, `schema.py`, `toml_files.py`, `unix_paths.py` and `values.py`
are pure.
"""

from .connection_strings import authority_digest as authority_digest
from .connection_strings import denied as denied
from .connection_strings import resource_of as resource_of
from .decision import Action as Action
from .decision import Decision as Decision
from .decision import Policy as Policy
from .decision import Resource as Resource
from .file import PolicyFile as PolicyFile
from .file import PolicyReading as PolicyReading
from .machine import policy_sources as policy_sources
from .machine import read_policy as read_policy
from .watching import PolicyChange as PolicyChange
from .watching import WatchedPolicy as WatchedPolicy
