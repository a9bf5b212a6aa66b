import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { chooseVersion, isCompatible, parseVersion } from './version-rule.ts';

describe('the rule of the document', () => {
  it.each([
    ['1.3.1', '1.5.1', true],
    ['1.3.5', '1.3.1', true],
    ['1.4.1', '1.3.1', false],
    ['2.0.0', '1.3.1', false],
    ['1.3.1', '2.3.1', false],
    ['1.3.0-dev', '1.3.1', true],
    ['1.4.0-beta3', '1.3.1', false],
    ['2.10.0', '2.9.9', false],
    ['2.9.0', '2.10.0', true],
  ])('data node %s under access node %s: %s', (dataNode, accessNode, expected) => {
    expect(isCompatible(dataNode, accessNode)).toBe(expected);
  });

  it('ignores the patch level', () => {
    const number = fc.nat({ max: 50 });
    fc.assert(
      fc.property(number, number, number, number, number, number, (a, b, p1, c, d, p2) => {
        expect(isCompatible(`${a}.${b}.${p1}`, `${c}.${d}.${p2}`)).toBe(
          isCompatible(`${a}.${b}.0`, `${c}.${d}.0`),
        );
      }),
    );
  });
});

describe('the reversed rule of TimescaleDB 2.8 to 2.13', () => {
  it.each([
    ['2.12.2', '2.13.1', false],
    ['2.13.1', '2.12.2', true],
    ['3.0.0', '2.13.1', true],
    ['1.9.0', '2.13.1', false],
  ])('data node %s under access node %s: %s', (dataNode, accessNode, expected) => {
    expect(isCompatible(dataNode, accessNode, 'reversed')).toBe(expected);
  });
});

it.each(['', '1', '1.2', 'x.y.z', 'v1.2.3', ' 1.2.3'])(
  'refuses %j as a version, naming whose it is',
  (text) => {
    expect(() => parseVersion(text, 'data node')).toThrow(`invalid data node version "${text}"`);
    expect(() => isCompatible('1.2.3', text)).toThrow(`invalid access node version "${text}"`);
  },
);

describe('choosing among the versions on offer', () => {
  it.each([
    [['2.13.0', '2.13.1', '2.12.2'], '2.13.1', '2.13.1'],
    [['2.12.2', '2.9.0', '2.10.3'], '2.13.1', '2.12.2'],
    [['2.13.9', '2.13.10'], '2.13.1', '2.13.10'],
    [['2.13.2-dev', '2.13.2'], '2.13.1', '2.13.2'],
    [['3.0.0', '1.7.5'], '2.13.1', undefined],
    [['unpackaged', '2.1.0'], '2.13.1', '2.1.0'],
    [[], '2.13.1', undefined],
  ])('from %j for %s takes %s', (onOffer, accessNode, expected) => {
    expect(chooseVersion(onOffer, accessNode)).toBe(expected);
  });
});
