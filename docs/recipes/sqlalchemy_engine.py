"""SQLAlchemy's pool calls a creator whenever it needs another connection; here, each gets a socket of its own."""

import pymysql
from sqlalchemy import create_engine, text

from hybridrelay import load_connection_string, open_socket

string = load_connection_string("application.txt")


def connect() -> pymysql.Connection:
    connection = pymysql.connect(
        host="orders.corp.example", user="app", password="secret", database="app", defer_connect=True
    )
    connection.connect(open_socket(string, timeout=20))
    return connection


# pool_pre_ping replaces a connection that was reset, for instance because the connector was restarted.
engine = create_engine("mysql+pymysql://", creator=connect, pool_pre_ping=True)

with engine.begin() as transaction:
    transaction.execute(text("CREATE TABLE IF NOT EXISTS visits (name VARCHAR(50))"))
    transaction.execute(text("INSERT INTO visits VALUES (:name)"), [{"name": "one"}, {"name": "two"}])
with engine.connect() as connection:
    print(connection.execute(text("SELECT COUNT(*) FROM visits")).scalar_one())
engine.dispose()
