"""SQL Server: python-tds accepts a connected socket. TLS is verified with the name of the server.

For cafile, python-tds needs pyOpenSSL.
"""

import pytds

from hybridrelay import load_connection_string, open_socket

string = load_connection_string("application.txt")

with pytds.connect(
    "sql01.corp.example",
    user="app",
    password="secret",
    sock=open_socket(string),
    cafile="ca.pem",
    autocommit=True,
) as connection:
    with connection.cursor() as cursor:
        cursor.execute("SELECT TOP 20000 number FROM numbers")
        print(sum(number for (number,) in cursor.fetchall()))
