# SPDX-License-Identifier: Apache-2.0
# pubsubpull_asyncpg.py: tells PostgreSQL which HTTP request the statements of a FastAPI (or any ASGI) service belong to.
"""
Two changes in a service on asyncpg behind mod_pubsubpull, here with FastAPI::

    app.add_middleware(pubsubpull_asyncpg.Middleware)
    pool = await asyncpg.create_pool(…, setup=pubsubpull_asyncpg.announce)

From then on each connection that the pool hands out has the envelope of the current request in its session's setting
``pubsubpull.request``; the pool itself resets it when it takes the connection back. See README.md beside this file.
"""
from contextlib import contextmanager
from contextvars import ContextVar

_current = ContextVar("pubsubpull_request", default="")


@contextmanager
def request(envelope):
    """Statements inside belong to this request. Of use to jobs that go on with what a request began:
    pass them ``current()`` along and let them say ``with pubsubpull_asyncpg.request(envelope): …``."""
    token = _current.set(envelope)
    try:
        yield
    finally:
        _current.reset(token)


def current():
    """The envelope of the current request, or an empty string."""
    return _current.get()


class Middleware:
    """Takes the envelope that httpd put into the request."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        headers = dict(scope.get("headers", ()))  # with names in lower case; httpd sends ours once
        with request(headers.get(b"pubsubpull-request", b"").decode("latin-1")):
            await self.app(scope, receive, send)


async def announce(connection):
    """What the pool calls before it hands out a connection."""
    if envelope := _current.get():
        await connection.execute("SELECT set_config('pubsubpull.request', $1, false)", envelope)
