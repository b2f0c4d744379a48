<?php
// mysqli with MariaDB, and PDO with both databases, as an application uses them.
[, $postgresql, $mariadb] = $argv;
[$host, $port] = explode(':', $mariadb);
mysqli_report(MYSQLI_REPORT_ERROR | MYSQLI_REPORT_STRICT);

$mysqli = new mysqli($host, 'app', 'secret', 'app', (int) $port);
$mysqli->query('DROP TABLE IF EXISTS from_php');
$mysqli->query('CREATE TABLE from_php (n INT, data LONGBLOB)');
$data = random_bytes(1000000);
$insert = $mysqli->prepare('INSERT INTO from_php VALUES (?, ?)');
foreach ([1, 2, 3] as $n) {
    $insert->execute([$n, $data]);
}
$result = $mysqli->execute_query('SELECT data FROM from_php WHERE n = ?', [2]);
if ($result->fetch_column() !== $data) {
    throw new Exception('the large value is wrong');
}
$mysqli->close();
echo "mysqli\n";

[$name, $number] = explode(':', $postgresql);
foreach ([
    ["mysql:host=$host;port=$port;dbname=app", 'app', 'secret'],
    ["pgsql:host=$name;port=$number;dbname=postgres", 'postgres', null],
] as [$dsn, $user, $password]) {
    $pdo = new PDO($dsn, $user, $password, [PDO::ATTR_EMULATE_PREPARES => false]);
    $pdo->exec('DROP TABLE IF EXISTS from_pdo');
    $pdo->exec('CREATE TABLE from_pdo (n INT)');
    $pdo->beginTransaction();
    $insert = $pdo->prepare('INSERT INTO from_pdo VALUES (?)');
    foreach (range(1, 100) as $n) {
        $insert->execute([$n]);
    }
    $pdo->commit();
    if ((int) $pdo->query('SELECT SUM(n) FROM from_pdo')->fetchColumn() !== 5050) {
        throw new Exception('the sum is wrong');
    }
    echo $pdo->getAttribute(PDO::ATTR_DRIVER_NAME), "\n";
}
