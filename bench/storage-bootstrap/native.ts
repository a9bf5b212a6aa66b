import { request } from 'node:http';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { IncomingMessage } from 'node:http';
import { DATA_SETS, scaled, STEP_MS } from '../storage-data.ts';
import { writeBodies } from '../storage/bodies.ts';
import { victoriaMetrics } from '../storage/contenders.ts';
import { ingest, spanOf } from '../storage/ingest.ts';

/** VictoriaMetrics' native export, piped into the import of another one until that has it on its disk; samples/s. */
export async function nativeCopyRate(base: string, scale: number): Promise<number> {
  const folder = join(base, 'native');
  await mkdir(join(folder, 'to'), { recursive: true });
  const set = scaled(DATA_SETS.A, scale);
  const spanMs = set.samplesPerSeries * STEP_MS;
  const bodies = writeBodies(join(folder, 'bodies'), set, Date.now() - spanMs - STEP_MS);
  try {
    const from = await victoriaMetrics(join(folder, 'from'));
    await mkdir(from.folder, { recursive: true });
    const to = await victoriaMetrics(join(folder, 'to'));
    let rate = Number.NaN;
    await ingest(from, {
      bodies,
      connections: 2,
      kills: false,
      whileUp: async () => {
        await from.count(spanOf(bodies));
        const { server } = await to.start();
        try {
          const fromMs = performance.now();
          await pipe(from.port, to.port);
          await (await fetch(`http://127.0.0.1:${to.port}/internal/force_flush`)).text();
          const ms = performance.now() - fromMs;
          const count = await to.count(spanOf(bodies));
          if (count !== bodies.samples) throw new Error(`${count} of ${bodies.samples} samples arrived`);
          rate = (bodies.samples / ms) * 1000;
        } finally {
          await server.kill();
        }
      },
    });
    return rate;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function pipe(fromPort: number, toPort: number): Promise<void> {
  const query = new URLSearchParams({ 'match[]': '{__name__!=""}' });
  const out = request(`http://127.0.0.1:${fromPort}/api/v1/export/native?${query.toString()}`);
  const answer = await answerOf(out, true);
  const into = request(`http://127.0.0.1:${toPort}/api/v1/import/native`, { method: 'POST' });
  const taken = answerOf(into, false);
  await pipeline(answer, into);
  const { statusCode = 0 } = await taken;
  if (answer.statusCode !== 200 || statusCode >= 300) {
    throw new Error(`export ${answer.statusCode}, import ${statusCode}`);
  }
}

function answerOf(asked: ReturnType<typeof request>, ends: boolean): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    asked.once('response', (answer) => {
      if (!ends) answer.resume();
      resolve(answer);
    });
    asked.once('error', reject);
    if (ends) asked.end();
  });
}
