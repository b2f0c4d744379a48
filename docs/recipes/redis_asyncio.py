"""redis-py in asyncio: a class of connections that open a reader and a writer in their own way."""

import asyncio

import redis.asyncio as redis

from hybridrelay import aio, load_connection_string

string = load_connection_string("application.txt")


class RelayConnection(redis.Connection):
    async def _connect(self) -> None:
        self._reader, self._writer = await aio.open_connection(string, timeout=self.socket_connect_timeout)


async def main() -> None:
    pool = redis.ConnectionPool(connection_class=RelayConnection)
    async with redis.Redis(connection_pool=pool) as client:
        await client.delete("visits")
        await asyncio.gather(*(client.incr("visits") for _ in range(20)))
        print((await client.get("visits")).decode())
    await pool.aclose()


asyncio.run(main())
