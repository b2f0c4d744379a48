"""FastAPI: the lifespan opens a forward and a pool of connections, and ends both when the server stops."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
from fastapi import FastAPI, Request

from hybridrelay import aio, load_connection_string


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aio.open_forward(load_connection_string("application.txt")) as (host, port):
        async with asyncpg.create_pool(host=host, port=port, user="postgres", database="postgres") as pool:
            app.state.pool = pool
            yield


app = FastAPI(lifespan=lifespan)


@app.get("/double/{number}")
async def double(number: int, request: Request) -> dict[str, int]:
    return {"answer": await request.app.state.pool.fetchval("SELECT $1::int * 2", number)}
