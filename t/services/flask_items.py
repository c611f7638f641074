# SPDX-License-Identifier: Apache-2.0
# flask_items.py: a service with Flask and SQLAlchemy (see PspTest/Channel.pm).
import os

import pubsubpull_sqlalchemy
from flask import Flask, request
from sqlalchemy import Column, Integer, Text, create_engine, text
from sqlalchemy.orm import declarative_base, scoped_session, sessionmaker
from sqlalchemy.pool import QueuePool

INSERT = text("INSERT INTO item (name) VALUES (:name)")
Base = declarative_base()


class Item(Base):
    __tablename__ = "item"
    id = Column(Integer, primary_key=True)
    name = Column(Text)


app = Flask(__name__)
engine = create_engine("postgresql+psycopg2://", poolclass=QueuePool, pool_size=2, max_overflow=0)
autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
session = scoped_session(sessionmaker(bind=engine))

pubsubpull_sqlalchemy.announce(engine)
app.wsgi_app = pubsubpull_sqlalchemy.Middleware(app.wsgi_app)


@app.teardown_appcontext
def remove(_):
    session.remove()


def add():
    session.add(Item(name=request.args["name"]))
    session.flush()


@app.post("/items")
def plain():
    if os.environ.get("ITEMS_TRANSACTIONS"):
        add()
        session.commit()
    else:
        with autocommit.connect() as connection:
            connection.execute(INSERT, request.args)
    return "", 201


@app.post("/items/twice")
def twice():
    with engine.connect() as connection:
        for _ in range(2):
            with connection.begin():
                connection.execute(INSERT, request.args)
    return "", 201


@app.post("/items/undone")
def undone():
    add()
    session.rollback()
    with session.begin_nested() as savepoint:
        add()
        savepoint.rollback()
    add()
    session.commit()
    return "", 201


@app.post("/items/failed")
def failed():
    add()
    raise RuntimeError("on purpose")


@app.get("/session")
def setting():
    """Asked of the driver, so that nobody announces anything."""
    connection = engine.raw_connection()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT coalesce(current_setting('pubsubpull.request', true), '')")
            return cursor.fetchone()[0]
    finally:
        connection.close()
