// node.js serve PORT | call PORT SECONDS: http with keep-alive, and 8 MB through a server's pipe.
const http = require('http');
const crypto = require('crypto');
const [, , what, port, seconds] = process.argv;

function serve() {
  http.createServer((request, response) => {
    if (request.method === 'POST') {
      request.pipe(response);
    } else {
      response.end('g'.repeat(Number(request.url.slice(1))));
    }
  }).listen(Number(port), '127.0.0.1');
}

const agent = new http.Agent({keepAlive: true, maxSockets: 4});

function ask(method, path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request({host: '127.0.0.1', port, method, path, agent}, (response) => {
      const sum = crypto.createHash('sha256');
      let size = 0;
      response.on('data', (data) => { sum.update(data); size += data.length; });
      response.on('end', () => resolve([size, sum.digest('hex')]));
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function call() {
  const said = [];
  for (const size of [0, 1, 1000, 70000, 1000000]) said.push(await ask('GET', '/' + size));
  said.push(await ask('POST', '/', Buffer.alloc(8 << 20, 'abcdefg')));
  let count = 0;
  const end = Date.now() + Number(seconds) * 1000;
  while (Date.now() < end) {
    await ask('GET', '/100');
    ++count;
  }
  console.log(JSON.stringify({said, rate: count / Number(seconds)}));
  agent.destroy();
}

what === 'serve' ? serve() : call();
