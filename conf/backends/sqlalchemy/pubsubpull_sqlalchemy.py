# SPDX-License-Identifier: Apache-2.0
# pubsubpull_sqlalchemy.py: tells PostgreSQL which HTTP request the statements of a Flask (or any WSGI) service belong to.
"""
Two lines in a service on SQLAlchemy behind mod_pubsubpull, here with Flask::

    pubsubpull_sqlalchemy.announce(engine)
    app.wsgi_app = pubsubpull_sqlalchemy.Middleware(app.wsgi_app)

From then on each statement runs in a session whose setting ``pubsubpull.request`` holds the envelope of the
current request, and is empty outside of requests. See README.md beside this file.
"""
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import event

# What a database session was told, for good and for the transaction that is open: in the info of its connection.
SESSION, TRANSACTION = "pubsubpull.session", "pubsubpull.transaction"

_current = ContextVar("pubsubpull_request", default="")


@contextmanager
def request(envelope):
    """Statements inside belong to this request. Of use to jobs that go on with what a request began:
    pass them ``current()`` along and let them say ``with pubsubpull_sqlalchemy.request(envelope): …``."""
    token = _current.set(envelope)
    try:
        yield
    finally:
        _current.reset(token)


def current():
    """The envelope of the current request, or an empty string."""
    return _current.get()


class Middleware:
    """Takes the envelope that httpd put into the request: a variable of FastCGI and mod_wsgi, or a header."""

    def __init__(self, application):
        self.application = application

    def __call__(self, environ, start_response):
        envelope = environ.get("PUBSUBPULL_REQUEST") or environ.get("HTTP_PUBSUBPULL_REQUEST", "")
        with request(envelope):
            return self.application(environ, start_response)


def announce(engine):
    """Has all connections of this engine say before a statement what it belongs to."""
    event.listen(engine, "before_cursor_execute", _before_statement)
    for end in ("commit", "rollback", "prepare_twophase"):
        event.listen(engine, end, _after_transaction)
    event.listen(engine, "checkin", _checkin)


def _before_statement(connection, cursor, statement, parameters, context, executemany):
    envelope, info = _current.get(), connection.info
    if connection.connection.autocommit:
        if info.get(SESSION, "") != envelope:
            _set(connection.connection, envelope, "false")
            info[SESSION] = envelope
    elif info.get(TRANSACTION, "") != envelope:
        # Local to the transaction, so that neither COMMIT nor ROLLBACK leaves anything behind. The first statement
        # of a transaction comes before any savepoint, hence no rollback to a savepoint takes the value away.
        _set(connection.connection, envelope, "true")
        info[TRANSACTION] = envelope


def _after_transaction(connection, *_):
    connection.info.pop(TRANSACTION, None)


def _checkin(connection, record):
    """A connection that stays open goes back to the pool as it came."""
    record.info.pop(TRANSACTION, None)
    if connection is None or not record.info.get(SESSION):  # None: it broke, and another one takes its place
        return
    try:
        _set(connection, "", "false")
        if not connection.autocommit:
            connection.commit()
        del record.info[SESSION]
    except Exception as error:
        record.invalidate(error)


def _set(connection, envelope, local):
    # A cursor of the driver itself: this statement is none of the service's, nor in its log.
    cursor = connection.cursor()
    try:
        cursor.execute(f"SELECT set_config('pubsubpull.request', %s, {local})", (envelope,))
    finally:
        cursor.close()
