# SPDX-License-Identifier: Apache-2.0
# fastapi_items.py: a service with FastAPI and asyncpg (see PspTest/Channel.pm).
import asyncio

import asyncpg
import pubsubpull_asyncpg
from fastapi import BackgroundTasks, FastAPI, HTTPException
from fastapi.responses import PlainTextResponse

INSERT = "INSERT INTO item (name) VALUES ($1)"
app = FastAPI()
app.add_middleware(pubsubpull_asyncpg.Middleware)


@app.on_event("startup")
async def connect():
    app.state.pool = await asyncpg.create_pool(min_size=2, max_size=3, setup=pubsubpull_asyncpg.announce)


@app.post("/items", status_code=201)
async def plain(name: str):
    await app.state.pool.execute(INSERT, name)


@app.post("/items/twice", status_code=201)
async def twice(name: str):
    async def once():
        async with app.state.pool.acquire() as connection, connection.transaction():
            await connection.execute(INSERT, name)

    await asyncio.gather(once(), once())


@app.post("/items/undone", status_code=201)
async def undone(name: str):
    async with app.state.pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(INSERT, name)
        await transaction.rollback()
        await connection.execute(INSERT, name)


@app.post("/items/failed")
async def failed(name: str):
    async with app.state.pool.acquire() as connection, connection.transaction():
        await connection.execute(INSERT, name)
        raise HTTPException(500)  # after another exception uvicorn closes the connection unannounced


@app.post("/items/later", status_code=201)
async def later(name: str, tasks: BackgroundTasks):
    """What is done after the response still belongs to the request."""
    tasks.add_task(app.state.pool.execute, INSERT, name)


@app.get("/session", response_class=PlainTextResponse)
async def setting():
    return await app.state.pool.fetchval("SELECT coalesce(current_setting('pubsubpull.request', true), '')")
