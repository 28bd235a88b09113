// Counts its requests; the count lives in memory alone.
const http = require("http");
const fs = require("fs");
const words = Array.from({ length: 50000 }, (_, index) => "word " + index);
let count = 0;
const server = http.createServer((request, response) => {
  count += 1;
  response.end(count + " " + words[(count * 7919) % words.length] + "\n");
});
setInterval(() => words.push(words.shift()), 3600 * 1000);
server.listen(0, "127.0.0.1", () => {
  fs.writeFileSync("draft", String(server.address().port));
  fs.renameSync("draft", "port");
});
