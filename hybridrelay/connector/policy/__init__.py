"""What the connector allows clients to do in its private network. Only `Policy.decide` decides that."""

from .decision import Action as Action
from .decision import Decision as Decision
from .decision import Policy as Policy
from .decision import Resource as Resource
from .file import PolicyFile as PolicyFile
from .file import PolicyReading as PolicyReading
