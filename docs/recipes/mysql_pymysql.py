"""PyMySQL accepts a connected socket. Nobody else on this machine can use it."""

import pymysql

from hybridrelay import load_connection_string, open_socket

string = load_connection_string("application.txt")

connection = pymysql.connect(
    host="orders.corp.example",  # the name of the server, with which TLS is verified
    user="app",
    password="secret",
    database="app",
    defer_connect=True,
)
connection.connect(open_socket(string))
with connection, connection.cursor() as cursor:
    cursor.execute("SELECT 6 * 7")
    print(cursor.fetchone())
