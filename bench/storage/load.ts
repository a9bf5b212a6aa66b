/**
 * Sends a file of bodies as fast as the server takes them: a process of its own, so that its processor time is not
 * the server's nor the harness's. `tsx load.ts '{"file": …, "port": …, "path": …, "connections": …}'` prints
 * READY when all is in memory, starts when a line comes in, and prints what happened as JSON.
 */
import { readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';
import { once } from 'node:events';

export interface LoadOptions {
  readonly file: string;
  readonly port: number;
  readonly path: string;
  readonly connections: number;
  readonly headers?: Readonly<Record<string, string>>;
  /** Only so many bodies; all of them unless given. */
  readonly bodies?: number;
}

export interface LoadResult {
  readonly requests: number;
  readonly acknowledged: number;
  readonly refused: number;
  readonly firstRefusal: string;
  readonly elapsedMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly cpuSeconds: number;
}

/**
 * So many scrapes a connection may be ahead of the slowest: as two halves of one fleet, which have one clock. Servers
 * refuse what is too far behind the newest that they have seen, Prometheus an hour.
 */
const MAX_LEAD = 120;

const options = JSON.parse(process.argv[2] ?? '{}') as LoadOptions;
const { lists: requests, lanes } = requestsOf(options);
/** By connection: the scrape that it is at, and how it goes on when the others have come up. */
const scrapes = requests.map(() => 0);
const waiting = new Map<number, () => void>();
const latenciesMs: number[] = [];
let [acknowledged, refused, firstRefusal] = [0, 0, ''];

const sockets = await Promise.all(requests.map(async () => await opened(options.port)));
// Whoever started it is gone.
process.stdin.once('end', () => process.exit(1));
console.log('READY');
await once(process.stdin, 'data');
const cpu = process.cpuUsage();
const start = performance.now();
await Promise.all(requests.map((own, i) => sendAll(sockets[i] as Socket, own, i)));
const elapsedMs = performance.now() - start;
const { user, system } = process.cpuUsage(cpu);
for (const socket of sockets) socket.destroy();
const sorted = Float64Array.from(latenciesMs).sort();
const at = (share: number): number => sorted[Math.floor(share * (sorted.length - 1))] ?? Number.NaN;
const result: LoadResult = {
  requests: latenciesMs.length,
  acknowledged,
  refused,
  firstRefusal,
  elapsedMs,
  p50Ms: at(0.5),
  p99Ms: at(0.99),
  maxMs: at(1),
  cpuSeconds: (user + system) / 1e6,
};
console.log(JSON.stringify(result));
process.exit(0);

/** Of each connection, in order, head and body in one piece; and how many of them are one scrape. */
function requestsOf({ file, port, path, connections, headers, bodies }: LoadOptions): {
  lists: Buffer[][];
  lanes: number[];
} {
  const content = readFileSync(file);
  const lists: Buffer[][] = Array.from({ length: connections }, () => []);
  const common = Object.entries({
    Host: `127.0.0.1:${port}`,
    'User-Agent': 'varve-bench',
    'Content-Encoding': 'snappy',
    'Content-Type': 'application/x-protobuf',
    'X-Prometheus-Remote-Write-Version': '0.1.0',
    ...headers,
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  const lanes: Set<number>[] = Array.from({ length: connections }, () => new Set());
  let count = 0;
  for (let place = 0; place < content.length && count < (bodies ?? Infinity); count++) {
    const lane = content.readUInt32LE(place);
    const size = content.readUInt32LE(place + 4);
    const body = content.subarray(place + 8, place + 8 + size);
    const head = `POST ${path} HTTP/1.1\r\n${common.join('')}Content-Length: ${size}\r\n\r\n`;
    lanes[lane % connections]?.add(lane);
    lists[lane % connections]?.push(Buffer.concat([Buffer.from(head), body]));
    place += 8 + size;
  }
  return { lists, lanes: lanes.map(({ size }) => size) };
}

/** Notes where a connection is; true when it may go on now, otherwise `goOn` is called when it may. */
function mayGoOn(connection: number, scrape: number, goOn: () => void): boolean {
  scrapes[connection] = scrape;
  const slowest = Math.min(...scrapes);
  for (const [other, wake] of waiting) {
    if ((scrapes[other] as number) > slowest + MAX_LEAD) continue;
    waiting.delete(other);
    wake();
  }
  if (scrape <= slowest + MAX_LEAD) return true;
  waiting.set(connection, goOn);
  return false;
}

async function opened(port: number): Promise<Socket> {
  const socket = connect({ port, host: '127.0.0.1', noDelay: true });
  await once(socket, 'connect');
  return socket;
}

/** One request at a time, as Prometheus' shards send them. */
function sendAll(socket: Socket, own: readonly Buffer[], connection: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let next = 0;
    let sentAt = 0;
    let pending = '';
    const send = (): void => {
      const request = own[next];
      if (request === undefined) {
        mayGoOn(connection, Infinity, () => {});
        waiting.delete(connection);
        resolve();
        return;
      }
      if (!mayGoOn(connection, Math.floor(next / (lanes[connection] ?? 1)), send)) return;
      sentAt = performance.now();
      socket.write(request);
    };
    socket.on('data', (bytes) => {
      pending += bytes.toString('latin1');
      const answer = completeAnswer(pending);
      if (answer === undefined) return;
      pending = pending.slice(answer.length);
      if (answer.status === 429 || answer.status === 503) {
        refused++;
        firstRefusal ||= answer.text;
        setTimeout(send, 20);
        return;
      }
      if (answer.status >= 300) {
        reject(new Error(`the server says ${answer.status}: ${answer.text.slice(0, 500)}`));
        return;
      }
      latenciesMs.push(performance.now() - sentAt);
      acknowledged++;
      next++;
      send();
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the server closed the connection')));
    send();
  });
}

/** Undefined as long as there is more to come. */
function completeAnswer(text: string): { status: number; length: number; text: string } | undefined {
  const headEnd = text.indexOf('\r\n\r\n');
  if (headEnd < 0) return undefined;
  const head = text.slice(0, headEnd);
  const status = Number(head.slice(9, 12));
  let length = headEnd + 4;
  const declared = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
  if (declared !== undefined) length += Number(declared);
  else if (/\r\ntransfer-encoding: *chunked/i.test(head)) {
    const end = text.indexOf('0\r\n\r\n', headEnd);
    if (end < 0) return undefined;
    length = end + 5;
  }
  return text.length < length ? undefined : { status, length, text };
}
