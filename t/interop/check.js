// SPDX-License-Identifier: Apache-2.0
// check.js: has libraries of others judge a notification, given as JSON on standard input:
// {"secrets": [name => whsec_…], "headers": {…}, "body": base64}; prints what they make of it as JSON:
// {"verified": {name: the event or an error}, "event": {…} or "invalid": why}
'use strict';
const { Webhook } = require('standardwebhooks');
const { HTTP } = require('cloudevents');

const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const body = Buffer.from(given.body, 'base64').toString('utf8');
const result = { verified: {} };
for (const [name, secret] of Object.entries(given.secrets)) {
  try { result.verified[name] = new Webhook(secret).verify(body, given.headers); }
  catch (error) { result.verified[name] = String(error); }
}
try {
  const event = HTTP.toEvent({ headers: given.headers, body });
  event.validate();
  result.event = event.toJSON();
} catch (error) {
  result.invalid = String(error);
}
console.log(JSON.stringify(result));
