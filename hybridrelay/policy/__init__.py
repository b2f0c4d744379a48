"""What is allowed in the private network. All such decisions are made by `Policy.decide`."""

from .decision import Action as Action
from .decision import Decision as Decision
from .decision import Policy as Policy
from .decision import Resource as Resource
from .file import PolicyFile as PolicyFile
from .file import PolicyReading as PolicyReading
