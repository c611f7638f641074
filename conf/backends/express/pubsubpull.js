// SPDX-License-Identifier: Apache-2.0
// pubsubpull.js: tells PostgreSQL which HTTP request the statements of an Express service belong to.
'use strict';

// Two changes in a service on Express and pg behind mod_pubsubpull:
//
//   app.use(pubsubpull.middleware);          // before all that uses the database
//   const pool = new pubsubpull.Pool({…});   // instead of new pg.Pool({…})
//
// From then on each client that the pool hands out has the envelope of the current request in its session's setting
// pubsubpull.request, and outside of requests it is empty. See README.md beside this file.

const { AsyncLocalStorage, AsyncResource } = require('node:async_hooks');
const pg = require('pg');

const storage = new AsyncLocalStorage();
const told = new WeakSet(); // clients whose session holds a request

/** The envelope of the current request, or an empty string. */
const current = () => storage.getStore() ?? '';

/** Calls work() as part of a request: for jobs that go on with what a request began and were given its current(). */
const request = (envelope, work) => storage.run(envelope, work);

/** Takes the envelope that httpd put into the request. */
const middleware = (req, res, next) => request(req.headers['pubsubpull-request'] ?? '', next);

async function tell(client, envelope) {
  if (envelope || told.has(client)) {
    told.add(client);
    await client.query("SELECT set_config('pubsubpull.request', $1, false)", [envelope]);
    if (!envelope) told.delete(client);
  }
}

// What a callback does belongs to the request that passed it, not to whom the socket was made for.
class Client extends pg.Client {
  query(...args) {
    if (typeof args.at(-1) === 'function') args.push(AsyncResource.bind(args.pop()));
    return super.query(...args);
  }
}

class Pool extends pg.Pool {
  constructor(options) {
    super({ Client, ...options });
  }

  connect(callback) { // query() of the pool comes here, too
    const checkout = this.#checkout(current());
    if (!callback) return checkout;
    checkout.then(
      (client) => process.nextTick(callback, undefined, client, client.release),
      (error) => process.nextTick(callback, error, undefined, () => {}));
  }

  async #checkout(envelope) {
    // A socket made here belongs to no request, lest what it calls pass for the first one's.
    const client = await storage.run('', () => super.connect());
    try {
      await tell(client, envelope);
    } catch (error) {
      client.release(error);
      throw error;
    }
    return client;
  }
}

module.exports = { middleware, Pool, current, request };
