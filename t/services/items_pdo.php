<?php
// SPDX-License-Identifier: Apache-2.0
// items_pdo.php: a service with PDO that knows nothing of mod_pubsubpull (see PspTest/Channel.pm).
$pdo = new PDO(
    "pgsql:host=$_SERVER[PGHOST];port=$_SERVER[PGPORT];dbname=$_SERVER[PGDATABASE];user=$_SERVER[PGUSER]", null, null,
    [PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_PERSISTENT => isset($_SERVER['ITEMS_PERSISTENT']),
        PDO::ATTR_EMULATE_PREPARES => isset($_SERVER['ITEMS_EMULATE'])] // as all must behind pgbouncer
);

function add(PDO $pdo): void
{
    $pdo->prepare('INSERT INTO item (name) VALUES (?)')->execute([$_GET['name']]);
}

switch ($_SERVER['PATH_INFO']) {
    case '/items':
        add($pdo);
        break;
    case '/items/twice':
        for ($n = 0; $n < 2; $n++) {
            $pdo->beginTransaction();
            add($pdo);
            $pdo->commit();
        }
        break;
    case '/items/undone':
        $pdo->beginTransaction();
        add($pdo);
        $pdo->rollBack();
        add($pdo);
        break;
    case '/items/failed':
        http_response_code(500);
        $pdo->beginTransaction();
        add($pdo);
        exit;
    case '/session':
        exit($pdo->query("SELECT coalesce(current_setting('pubsubpull.request', true), '')")->fetchColumn());
}
http_response_code(201);
