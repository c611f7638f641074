<?php
// SPDX-License-Identifier: Apache-2.0
// pubsubpull_pgbouncer.php: takes the place of pubsubpull.php where PHP's connections go through pgbouncer, which takes no
// options but gives each client's application_name to the sessions that it borrows.

if (isset($_SERVER['PUBSUBPULL_REQUEST_ID'])) {
    putenv('PGAPPNAME=psp:' . $_SERVER['PUBSUBPULL_REQUEST_ID']);
}
