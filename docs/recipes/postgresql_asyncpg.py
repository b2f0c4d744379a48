"""asyncpg takes a host and a port, so a forward is open while the program uses the database."""

import asyncio

import asyncpg

from hybridrelay import aio, load_connection_string


async def main() -> None:
    async with aio.open_forward(load_connection_string("application.txt")) as (host, port):
        async with asyncpg.create_pool(host=host, port=port, user="postgres", database="postgres") as pool:
            answers = await asyncio.gather(*(pool.fetchval("SELECT $1::int * 2", number) for number in range(20)))
            print(sum(answers))


asyncio.run(main())
