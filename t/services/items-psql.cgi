#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# items-psql.cgi: a CGI program that works with psql and knows nothing of mod_pubsubpull (see PspTest/Channel.pm).
name=${QUERY_STRING#name=}
sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 -v name="$name" >/dev/null; }
insert="INSERT INTO item (name) VALUES (:'name');"
case $PATH_INFO in
/items) echo "$insert" | sql ;;
/items/twice) echo "BEGIN; $insert COMMIT; BEGIN; $insert COMMIT;" | sql ;;
/items/undone) echo "BEGIN; $insert ROLLBACK; $insert" | sql ;;
/items/failed) echo "BEGIN; $insert SELECT 1 / 0; COMMIT;" | sql 2>/dev/null ;;
esac && status='201 Created' || status='500 Failed'
printf 'Status: %s\nContent-Type: text/plain\n\n' "$status"
