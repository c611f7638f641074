# SPDX-License-Identifier: Apache-2.0
# adapter_otel.t: an Express service on pg that OpenTelemetry instruments and that knows nothing of mod_pubsubpull: by the comment.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up(['otel'])->check;
finish;
