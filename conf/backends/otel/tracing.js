// SPDX-License-Identifier: Apache-2.0
// tracing.js: OpenTelemetry for a service with pg, with the two options that mod_pubsubpull wants: node --require ./tracing.js service.js
'use strict';
const { registerInstrumentations } = require('@opentelemetry/instrumentation');
const { HttpInstrumentation } = require('@opentelemetry/instrumentation-http');
const { PgInstrumentation } = require('@opentelemetry/instrumentation-pg');
const { NodeTracerProvider } = require('@opentelemetry/sdk-trace-node');

new NodeTracerProvider().register(); // with its exporters, as ever
registerInstrumentations({
  instrumentations: [
    new HttpInstrumentation(), // takes traceparent and tracestate from the request
    new PgInstrumentation({ addSqlCommenterCommentToQueries: true }),
  ],
});
