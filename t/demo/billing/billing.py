# SPDX-License-Identifier: Apache-2.0
# billing.py: a service of another team. It keeps a copy of customers' locations in its own database, from the PUTs it gets.
import json
import re
from contextlib import contextmanager

from psycopg2.pool import ThreadedConnectionPool

pool = ThreadedConnectionPool(1, 16, "")  # the database is named by PGHOST, PGPORT, PGDATABASE, PGUSER

TABLE = """CREATE TABLE IF NOT EXISTS customer_location
    (id bigint PRIMARY KEY, name text NOT NULL, city text NOT NULL, country text NOT NULL)"""
UPSERT = """INSERT INTO customer_location (id, name, city, country) VALUES (%(id)s, %(name)s, %(city)s, %(country)s)
    ON CONFLICT (id) DO UPDATE SET (name, city, country) = (excluded.name, excluded.city, excluded.country)"""


@contextmanager
def cursor():
    connection = pool.getconn()
    try:
        with connection, connection.cursor() as result:
            yield result
    finally:
        pool.putconn(connection)


with cursor() as c:
    c.execute("SELECT pg_advisory_xact_lock(1)")  # several workers start at once
    c.execute(TABLE)


def put_customer(key, event):
    """An event may come twice: both of these do the same when done again."""
    with cursor() as c:
        if event["type"] == "delete":
            c.execute("DELETE FROM customer_location WHERE id = %s", (key,))
        else:
            c.execute(UPSERT, event["new"])


def customers():
    with cursor() as c:
        c.execute("SELECT id, name, city, country FROM customer_location ORDER BY id")
        return [dict(zip(("id", "name", "city", "country"), row)) for row in c]


def application(environ, start_response):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    match = re.fullmatch(r"/customers/(\d*)", path)
    if match and match[1] and method == "PUT":
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        put_customer(int(match[1]), json.loads(body))
        print("billing got PUT", path, body.decode(), flush=True)
        start_response("204 No Content", [])
        return [b""]
    if match and not match[1] and method == "GET":
        body = json.dumps(customers(), ensure_ascii=False).encode()
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not here\n"]
