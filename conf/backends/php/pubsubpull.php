<?php
// SPDX-License-Identifier: Apache-2.0
// pubsubpull.php: the database sessions of a PHP application are told which HTTP request they work for.
// The application does not change: auto_prepend_file names this file. See README.md beside it.

// libpq reads its options from the environment of the process, where the variables of a FastCGI request are not.
// PHP itself takes back what putenv set when the request ends.
if (isset($_SERVER['PUBSUBPULL_REQUEST'], $_SERVER['PGOPTIONS'])) {
    putenv('PGOPTIONS=' . $_SERVER['PGOPTIONS']);
}
