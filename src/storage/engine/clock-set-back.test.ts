import { expect, test } from 'vitest';
import { parseSelector } from '../index/selector.ts';
import {
  BLOCK_NS,
  dump,
  expected,
  HOUR_NS,
  MINUTE_NS,
  openEngine,
  readyEngine,
  simulatedPlace,
  write,
} from './engine.suite.ts';

const at = (minutes: number): bigint => BLOCK_NS + BigInt(minutes) * MINUTE_NS;
const EVER = { startNs: 0n, endNs: 1n << 62n };

test('a value that was overwritten does not come back when its block was out of retention for a while', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place, [
    { name: 'default', retentionNs: 24n * HOUR_NS, coldWritesEnabled: true },
  ]);
  await write(engine, 'up', [[at(20), 1]]);
  place.clock.advance(3n * HOUR_NS);
  await engine.flush();
  await write(engine, 'up', [[at(20), 2]]);
  place.clock.advance(30n * HOUR_NS);
  await engine.flush();
  place.clock.advance(-29n * HOUR_NS);
  expect(await dump(engine)).toEqual({ up: expected([[at(20), 2]]) });
});

test('what was deleted does not come back from a file that is out of retention and still read', async () => {
  const place = await simulatedPlace();
  await using engine = await readyEngine(place, [{ name: 'default', retentionNs: 24n * HOUR_NS }]);
  await write(engine, 'up', [[at(20), 1]]);
  await write(engine, 'down', [[at(20), 1]]);
  place.clock.advance(3n * HOUR_NS);
  await engine.flush();
  const query = { matchers: parseSelector('down'), ...EVER };
  const reading = engine.read('default', query)[Symbol.asyncIterator]();
  await reading.next();
  await engine.deleteSeries('default', { selectors: [parseSelector('up')], startNs: 0n, endNs: at(60) });
  place.clock.advance(30n * HOUR_NS);
  await engine.cleanUp();
  await engine.snapshot();
  place.clock.advance(-29n * HOUR_NS);
  await using restarted = await openEngine({ ...place, fs: place.fs.processCrash(1) });
  await restarted.ready();
  expect(await dump(restarted)).toEqual({ down: expected([[at(20), 1]]) });
  await reading.return?.();
});

test('what is deleted or overwritten after a start with the clock set back is later than what files have', async () => {
  const place = await simulatedPlace();
  const requests = [{ name: 'default', coldWritesEnabled: true }];
  {
    await using engine = await readyEngine(place, requests);
    await write(engine, 'up', [[at(20), 1]]);
    await write(engine, 'down', [[at(20), 1]]);
    place.clock.advance(3n * HOUR_NS);
    await engine.flush();
    await write(engine, 'down', [[at(20), 2]]);
    await engine.flush({ force: true });
    // The log and the manifests know when that was; whatever is left of them by now.
    for (const path of place.fs.files().keys()) {
      if (path.includes('/log/') || path.includes('/snapshots/') || path.includes('/image/'))
        await place.fs.remove(path);
    }
  }
  place.clock.advance(-2n * HOUR_NS);
  await using engine = await openEngine(place);
  await engine.ready();
  await engine.deleteSeries('default', { selectors: [parseSelector('up')], ...EVER });
  await write(engine, 'down', [[at(20), 3]]);
  expect(await dump(engine)).toEqual({ down: expected([[at(20), 3]]) });
  await engine.flush({ force: true });
  expect(await dump(engine)).toEqual({ down: expected([[at(20), 3]]) });
});
