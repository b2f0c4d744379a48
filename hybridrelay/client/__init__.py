"""The client: a library call, or local ports that look like the target."""

from .client import Client as Client
from .client import open_client as open_client
from .config import ClientConfig as ClientConfig
from .embedding.forwards import BackgroundForward as BackgroundForward
from .embedding.forwards import LocalAddress as LocalAddress
from .embedding.forwards import forward_in_thread as forward_in_thread
from .embedding.sockets import open_socket as open_socket
from .ingress.fronts import Front as Front
from .ingress.ports import OpenPort as OpenPort
from .ingress.ports import PortService as PortService
from .ingress.ports import open_port as open_port
from .ingress.ports import run_forward as run_forward
from .ingress.readiness import keep_connected as keep_connected
from .issuing import request_identity as request_identity
