// pg, mysql2 and ioredis, each with several connections at once.
const assert = require('node:assert');
const crypto = require('node:crypto');
const pg = require('pg');
const mysql = require('mysql2/promise');
const Redis = require('ioredis');

const [postgresqlUrl, mariadbUrl, redisUrl] = process.argv.slice(2);
const numbers = Array.from({ length: 50 }, (_, n) => n);
const data = crypto.randomBytes(1_000_000);

async function withPg() {
  const pool = new pg.Pool({ connectionString: postgresqlUrl, max: 5 });
  const answers = await Promise.all(numbers.map((n) => pool.query('SELECT $1::int * 2 AS twice', [n])));
  assert.deepStrictEqual(answers.map(({ rows }) => rows[0].twice), numbers.map((n) => 2 * n));
  const { rows } = await pool.query('SELECT $1::bytea AS data', [data]);
  assert(rows[0].data.equals(data));
  await pool.end();
  console.log('pg');
}

async function withMysql() {
  const pool = mysql.createPool({ uri: mariadbUrl, connectionLimit: 5 });
  const answers = await Promise.all(numbers.map((n) => pool.execute('SELECT ? + 0 AS same', [n])));
  assert.deepStrictEqual(answers.map(([rows]) => Number(rows[0].same)), numbers);
  const [rows] = await pool.query('SELECT ? AS data', [data]);
  assert(Buffer.from(rows[0].data).equals(data));
  await pool.end();
  console.log('mysql2');
}

async function withRedis() {
  const client = new Redis(redisUrl);
  const subscriber = client.duplicate();
  const heard = new Promise((resolve) => subscriber.on('message', (channel, message) => resolve(message)));
  await subscriber.subscribe('news');
  await client.publish('news', 'hello');
  assert.strictEqual(await heard, 'hello');
  await client.set('data', data);
  assert((await client.getBuffer('data')).equals(data));
  await Promise.all([client.quit(), subscriber.quit()]);
  console.log('ioredis');
}

(async () => {
  await withPg();
  await withMysql();
  await withRedis();
})();
