"""psycopg takes a host and a port, so a forward is open while the program uses the database."""

import psycopg

from hybridrelay import forward_in_thread, load_connection_string

with forward_in_thread(load_connection_string("application.txt")) as (address, port):
    # hostaddr is where psycopg connects. host stays the name of the server: TLS and ~/.pgpass use it.
    with psycopg.connect(
        host="orders.corp.example", hostaddr=address, port=port, user="postgres", dbname="postgres"
    ) as connection:
        for (number,) in connection.execute("SELECT generate_series(1, 3)"):
            print(number)
