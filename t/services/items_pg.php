<?php
// SPDX-License-Identifier: Apache-2.0
// items_pg.php: a service with PHP's pgsql and pg_pconnect that knows nothing of mod_pubsubpull (see PspTest/Channel.pm).
$db = pg_pconnect("host=$_SERVER[PGHOST] port=$_SERVER[PGPORT] dbname=$_SERVER[PGDATABASE] user=$_SERVER[PGUSER]");
if ($_SERVER['PATH_INFO'] === '/session') {
    exit(pg_fetch_result(pg_query($db, "SELECT coalesce(current_setting('pubsubpull.request', true), '')"), 0));
}
pg_query_params($db, 'INSERT INTO item (name) VALUES ($1)', [$_GET['name']]);
http_response_code(201);
