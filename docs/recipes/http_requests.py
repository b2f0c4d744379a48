"""requests with an adapter for one site. URLs and certificates are those of the private network."""

import socket

import requests
import urllib3
from requests.adapters import HTTPAdapter

from hybridrelay import load_connection_string, open_socket

string = load_connection_string("application.txt")


class RelayHTTPConnection(urllib3.connection.HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return open_socket(string)


class RelayHTTPSConnection(urllib3.connection.HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return open_socket(string)


class RelayHTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = RelayHTTPConnection


class RelayHTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = RelayHTTPSConnection


class RelayAdapter(HTTPAdapter):
    def init_poolmanager(self, *arguments: object, **options: object) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": RelayHTTPPool, "https": RelayHTTPSPool}


with requests.Session() as session:
    session.trust_env = False  # a proxy of the environment is not for this site
    session.mount("http://intranet.corp.example/", RelayAdapter())
    session.mount("https://intranet.corp.example/", RelayAdapter())
    answer = session.get("http://intranet.corp.example/greeting", timeout=20)
    answer.raise_for_status()
    print(answer.text)
