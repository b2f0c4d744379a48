"""httpx can use a Unix socket, to which only this user can connect. URLs are those of the private network."""

import asyncio
import tempfile

import httpx

from hybridrelay import aio, load_connection_string


async def main() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        listen = f"unix:{directory}/http"
        async with aio.open_forward(load_connection_string("application.txt"), listen=listen) as path:
            transport = httpx.AsyncHTTPTransport(uds=path)
            async with httpx.AsyncClient(transport=transport, base_url="http://intranet.corp.example") as client:
                answers = await asyncio.gather(*(client.get("/greeting") for _ in range(5)))
    print({answer.text for answer in answers})


asyncio.run(main())
