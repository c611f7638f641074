#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# guestbook.cgi: writes what is POSTed to it into a table. It does nothing for mod_pubsubpull and needs not.
#   CREATE TABLE guestbook (id serial PRIMARY KEY, line text NOT NULL);
# The database is named by PGHOST, PGDATABASE, PGUSER: SetEnv in httpd's configuration.
set -eu
line=$(head -c "${CONTENT_LENGTH:-0}")
id=$(echo "INSERT INTO guestbook (line) VALUES (:'line') RETURNING id" |
    psql -X -q -A -t -v ON_ERROR_STOP=1 -v line="$line")
printf 'Status: 201\nContent-Type: text/plain\n\n%s\n' "$id"
