// Three processes that share a port, each with a thread of its own, and a main one that they speak to.
const cluster = require('cluster');
const fs = require('fs');
const http = require('http');
const { Worker } = require('worker_threads');

if (cluster.isPrimary) {
  let count = 0;
  for (let i = 0; i < 3; i++) cluster.fork();
  cluster.on('message', (from, message) => from.send({ id: message.id, count: ++count }));
  cluster.on('listening', (from, address) => {
    fs.writeFileSync('port.new', String(address.port));
    fs.renameSync('port.new', 'port');
  });
} else {
  let ticks = 0;
  const text = 'let n = 0; setInterval(() => require("worker_threads").parentPort.postMessage(++n), 20)';
  new Worker(text, { eval: true }).on('message', n => { ticks = n; });
  const waiting = new Map();
  let id = 0;
  process.on('message', message => {
    waiting.get(message.id).end(`${message.count} ${process.pid} ${ticks}\n`);
    waiting.delete(message.id);
  });
  http.createServer((request, response) => {
    waiting.set(++id, response);
    process.send({ id });
  }).listen(0, '127.0.0.1');
}
