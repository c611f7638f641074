// SPDX-License-Identifier: Apache-2.0
// secure.js: a receiver behind TLS, HTTP/2 or 1.1 as the client likes; writes down every request like receiver.py.
//
// usage: node secure.js PORT FILE OPTIONS, OPTIONS being JSON: {"cert": file, "key": file, "ca": file of those whose
// client certificates are wanted, "http1": true}. Each request gets the additional headers x-version and
// x-client (the client certificate's name). What the path begins with decides about the answer, default 204:
//   /slow: after 20 ms   /reset: the stream is reset   /goaway: answers, and the connection takes no more
//   /die: the connection breaks without an answer    /mute: no answer, nor to anything on this connection from then on
//   /early: 103 without end   /endless: a body without end
'use strict';
const fs = require('fs');
const http2 = require('http2');
const https = require('https');

const [port, file] = [Number(process.argv[2]), process.argv[3]];
const options = JSON.parse(process.argv[4]);
const tls = { cert: fs.readFileSync(options.cert), key: fs.readFileSync(options.key) };
if (options.ca) Object.assign(tls, { ca: fs.readFileSync(options.ca), requestCert: true, rejectUnauthorized: true });

const escapes = { '\\': '\\\\', '\t': '\\t', '\n': '\\n', '\r': '\\r' };
let connections = 0, flying = 0;

function record(request, body) {
  const socket = request.stream ? request.stream.session.socket : request.socket;
  const client = options.ca ? socket.getPeerCertificate().subject.CN : '';
  const headers = Object.entries(request.headers).filter(([name]) => name[0] !== ':');
  headers.push(['x-version', request.httpVersion], ['x-client', client]);
  const text = body.toString('latin1').replace(/[\\\t\n\r]/g, (c) => escapes[c]);
  const line = [Date.now() / 1000, socket.number, flying, request.method, request.url, JSON.stringify(headers), text];
  fs.appendFileSync(file, Buffer.from(line.join('\t') + '\n', 'latin1'));
}

function early(stream) {
  if (stream.destroyed) return;
  stream.additionalHeaders({ ':status': 103, 'link': '</' + 'x'.repeat(1000) + '>' });
  setImmediate(early, stream);
}

function endless(response) {
  const chunk = Buffer.alloc(16384, 'x');
  const more = () => { while (!response.destroyed && response.write(chunk)); };
  response.on('drain', more);
  more();
}

function answer(request, response) {
  const path = request.url, stream = request.stream;
  const session = stream && stream.session;
  const done = () => { response.writeHead(204); response.end(); };
  if (session && (session.mute = session.mute || path.startsWith('/mute'))) return;
  if (path.startsWith('/slow')) return setTimeout(done, 20);
  if (path.startsWith('/reset')) return stream.close(http2.constants.NGHTTP2_INTERNAL_ERROR);
  if (path.startsWith('/die')) return request.socket.destroy();
  if (path.startsWith('/early')) return early(stream);
  if (path.startsWith('/endless')) { response.writeHead(200); return endless(response); }
  if (path.startsWith('/goaway')) session.goaway();
  done();
}

function serve(request, response) {
  const parts = [];
  flying++;
  response.on('close', () => { flying--; });
  request.on('error', () => {});
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    if (request.stream && !request.stream.session) return; // broken meanwhile
    record(request, Buffer.concat(parts));
    answer(request, response);
  });
}

const server = options.http1 ? https.createServer(tls, serve) : http2.createSecureServer({ ...tls, allowHTTP1: true }, serve);
server.on('secureConnection', (socket) => { socket.number = ++connections; });
for (const event of ['sessionError', 'tlsClientError', 'clientError']) server.on(event, () => {});
process.on('uncaughtException', (error) => {
  if (!['ERR_HTTP2_INVALID_STREAM', 'ECONNRESET', 'EPIPE', 'ERR_STREAM_DESTROYED'].includes(error.code)) { console.error(error); process.exit(1); }
});
process.stdin.on('data', () => {}).on('end', () => process.exit(0));
server.listen(port, '127.0.0.1', () => console.log('ok'));
