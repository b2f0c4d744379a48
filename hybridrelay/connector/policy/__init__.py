"""What the connector's private network allows. `Policy.decide` is the only place where that is decided."""

from .decision import Action as Action
from .decision import Decision as Decision
from .decision import Policy as Policy
from .decision import Resource as Resource
from .file import PolicyFile as PolicyFile
from .file import PolicyReading as PolicyReading
