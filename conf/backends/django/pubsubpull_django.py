# SPDX-License-Identifier: Apache-2.0
# pubsubpull_django.py: tells PostgreSQL which HTTP request the statements of a Django service belong to.
"""
Two lines in the settings of a Django project behind mod_pubsubpull::

    INSTALLED_APPS += ["pubsubpull_django.Adapter"]
    MIDDLEWARE.insert(0, "pubsubpull_django.Middleware")

From then on each statement runs in a session whose setting ``pubsubpull.request`` holds the envelope of the
current request, and is empty outside of requests. See README.md beside this file.
"""
from contextlib import contextmanager
from contextvars import ContextVar

from django.apps import AppConfig
from django.db import connections
from django.db.backends.signals import connection_created

IDLE, IN_TRANSACTION = 0, 2  # of libpq's PQtransactionStatus

_current = ContextVar("pubsubpull_request", default="")


@contextmanager
def request(envelope):
    """Statements inside belong to this request. Of use to jobs that go on with what a request began:
    pass them ``current()`` along and let them say ``with pubsubpull_django.request(envelope): …``."""
    token = _current.set(envelope)
    try:
        yield
    finally:
        _current.reset(token)
        for connection in connections.all():
            _forget(connection)


def current():
    """The envelope of the current request, or an empty string."""
    return _current.get()


class Middleware:
    """Takes the envelope that httpd put into the request: a variable of CGI, FastCGI and mod_wsgi, or a header."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, http_request):
        meta = http_request.META
        with request(meta.get("PUBSUBPULL_REQUEST") or meta.get("HTTP_PUBSUBPULL_REQUEST", "")):
            return self.get_response(http_request)


class Adapter(AppConfig):
    """Has each new connection to PostgreSQL call _announce before each statement."""

    name = "pubsubpull_django"

    def ready(self):
        connection_created.connect(_connected, dispatch_uid="pubsubpull_django")


def _connected(connection, **_):
    if connection.vendor != "postgresql":
        return
    # What the database session was told: for good, and for the transaction that is open.
    connection.pubsubpull_session = connection.pubsubpull_local = ""
    if _announce not in connection.execute_wrappers:
        connection.execute_wrappers.insert(0, _announce)  # others are pushed and popped at the end


def _announce(execute, sql, params, many, context):
    connection, envelope = context["connection"], _current.get()
    status = connection.connection.info.transaction_status
    if status == IDLE and connection.get_autocommit():
        if connection.pubsubpull_session != envelope:
            _set(connection, envelope, local=False)
            connection.pubsubpull_session = envelope
    elif status in (IDLE, IN_TRANSACTION):
        # Local to the transaction, so that neither COMMIT nor ROLLBACK leaves anything behind. The first statement
        # of a transaction comes before any savepoint, hence no rollback to a savepoint takes the value away.
        known = connection.pubsubpull_session if status == IDLE else connection.pubsubpull_local
        if known != envelope:
            _set(connection, envelope, local=True)
        connection.pubsubpull_local = envelope
    return execute(sql, params, many, context)


def _set(connection, envelope, local):
    # A cursor of the driver itself: this statement is none of the service's, nor in its query log.
    with connection.wrap_database_errors, connection.connection.cursor() as cursor:
        cursor.execute("SELECT set_config('pubsubpull.request', %s, %s)", (envelope, local))


def _forget(connection):
    """At the end of a request: a connection that stays open goes back as it came."""
    if connection.connection is None or not getattr(connection, "pubsubpull_session", ""):
        return
    try:
        if connection.connection.info.transaction_status == IDLE and connection.get_autocommit():
            _set(connection, "", local=False)
            connection.pubsubpull_session = ""
    except Exception:  # a broken connection: nothing to take back, Django opens another
        connection.close()
