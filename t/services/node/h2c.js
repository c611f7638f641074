// SPDX-License-Identifier: Apache-2.0
// h2c.js: a service that speaks HTTP/2 without TLS, with pg and conf/backends/express (see PspTest/Channel.pm).
'use strict';
const http2 = require('node:http2');
const pubsubpull = require(process.env.ITEMS_ADAPTER);

const pool = new pubsubpull.Pool({ max: 3 });

async function serve(req, res) {
  const { pathname, searchParams } = new URL(req.url, 'http://h2c');
  if (pathname !== '/items') {
    res.writeHead(404).end();
    return;
  }
  await pool.query('INSERT INTO item (name) VALUES ($1)', [searchParams.get('name')]);
  res.writeHead(201).end();
}

const server = http2.createServer((req, res) => pubsubpull.middleware(req, res, () => {
  serve(req, res).catch((error) => res.writeHead(500).end(error.message));
}));
server.listen(process.argv[2], '127.0.0.1');
