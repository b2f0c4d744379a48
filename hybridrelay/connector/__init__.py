"""The connector: runs in the private network, only dials out, and connects applications to the target."""

from ..policy import Policy as Policy
from ..policy import PolicyFile as PolicyFile
from .config import ConnectorConfig as ConnectorConfig
from .connector import Connector as Connector
from .connector import run_connector as run_connector
from .instance_file import InstanceFile as InstanceFile
from .instance_file import default_instance_file as default_instance_file
from .instance_file import state_directory as state_directory
