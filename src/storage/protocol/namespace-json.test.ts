import { expect, test } from 'vitest';
import { NAMESPACE_DEFAULTS, namespaceOptions } from '../engine/namespace-options.ts';
import { namespaceFromSettings, namespaceSettings } from './namespace-json.ts';

test('options become settings and back', () => {
  const options = namespaceOptions({
    name: 'a',
    retentionNs: 90n * 60_000_000_000n * 60n,
    coldWritesEnabled: true,
  });
  const settings = namespaceSettings(options);
  expect(settings).toMatchObject({
    retention: '90h',
    blockSize: '2h',
    bufferPast: '10m',
    coldWritesEnabled: true,
  });
  expect(namespaceFromSettings('a', JSON.parse(JSON.stringify(settings)))).toEqual(options);
});

test('what is left out is the default, or as it was', () => {
  expect(namespaceFromSettings('a', {})).toEqual({ name: 'a', ...NAMESPACE_DEFAULTS });
  const base = namespaceFromSettings('a', { retention: '30d' });
  expect(namespaceFromSettings('a', { bufferPast: '30m' }, base)).toEqual({
    ...base,
    bufferPastNs: 1_800_000_000_000n,
  });
  expect(namespaceFromSettings('a', { blockSize: '1h' }, base).indexBlockSizeNs).toBe(3_600_000_000_000n);
  expect(namespaceFromSettings('a', { blockSize: '4h', retention: '8h' }).indexBlockSizeNs).toBe(
    14_400_000_000_000n,
  );
});

test.each<[unknown, string]>([
  [[], 'not a JSON object'],
  [null, 'not a JSON object'],
  [{ retention: 48 }, 'retention has to be a duration'],
  [{ retention: '48' }, 'retention has to be a duration'],
  [{ maxSeries: '5' }, 'maxSeries has to be a number'],
  [{ coldWrites: true }, 'there is no setting "coldWrites"'],
  [{ name: 'b' }, 'there is no setting "name"'],
  [{ retentionNs: '1h' }, 'there is no setting "retentionNs"'],
  [{ retention: '1h' }, 'retention (3600000000000 ns) is at least one block'],
  [{ cachePolicy: 'some' }, 'cachePolicy is one of'],
])('%j is refused', (settings, why) => {
  expect(() => namespaceFromSettings('a', settings)).toThrow(
    expect.objectContaining({ code: 'NAMESPACE_INVALID', message: expect.stringContaining(why) as string }),
  );
});
