// SPDX-License-Identifier: Apache-2.0
// items.js: a service with Express and pg (see PspTest/Channel.pm). With ITEMS_ADAPTER it uses conf/backends/express,
// without it knows nothing of mod_pubsubpull.
'use strict';
const express = require('express');
const pg = require('pg');

const adapter = process.env.ITEMS_ADAPTER && require(process.env.ITEMS_ADAPTER);
const pool = new (adapter || pg).Pool({ max: 3 });
const INSERT = 'INSERT INTO item (name) VALUES ($1)';
const app = express();
if (adapter) app.use(adapter.middleware);

async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    await work(client);
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK');
    throw error;
  } finally {
    client.release();
  }
}

app.post('/items', (req, res, next) => { // as it was written before there were promises
  pool.query(INSERT, [req.query.name], (error) => (error ? next(error) : res.status(201).end()));
});

app.post('/items/twice', (req, res, next) => {
  pool.connect((error, client, release) => {
    if (error) return next(error);
    client.query(INSERT, [req.query.name], (failure) => {
      release();
      if (failure) return next(failure);
      transaction((other) => other.query(INSERT, [req.query.name])).then(() => res.status(201).end(), next);
    });
  });
});

app.post('/items/undone', async (req, res) => {
  const undone = transaction(async (client) => {
    await client.query(INSERT, [req.query.name]);
    throw new Error('on purpose');
  });
  await undone.catch(() => pool.query(INSERT, [req.query.name]));
  res.status(201).end();
});

app.post('/items/failed', () => transaction(async (client) => {
  await client.query(INSERT, ['never']);
  throw new Error('on purpose');
}));

app.get('/session', async (req, res) => {
  const { rows } = await pool.query("SELECT coalesce(current_setting('pubsubpull.request', true), '') AS setting");
  res.type('text').send(rows[0].setting);
});

app.use((error, req, res, next) => { // four parameters make it the handler of errors
  res.status(500).type('text').send(error.message);
});
app.listen(process.argv[2], '127.0.0.1');
