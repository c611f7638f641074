# SPDX-License-Identifier: Apache-2.0
# adapter_flask.t: a Flask service on SQLAlchemy with conf/backends/sqlalchemy, over http.
use PspTest;
use PspTest::Channels;

PspTest::Channels->up(['flask'])->check;
finish;
