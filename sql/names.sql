-- SPDX-License-Identifier: Apache-2.0
-- names.sql: what the roles are called, unless said otherwise with -v owner=, -v module= or -v publisher=.
\if :{?owner}
\else
\set owner pubsubpull
\endif
\if :{?module}
\else
\set module pubsubpull_httpd
\endif
\if :{?publisher}
\else
\set publisher pubsubpull_publisher
\endif
