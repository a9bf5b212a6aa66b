import { describe, expect, it } from 'vitest';
import { resolveOptions } from '../config/resolve.ts';
import { nodeOptions, type NodeOptions } from './node-options.ts';

const whole = { name: 'an1', kind: 'access', folder: '/srv/an1', httpPort: 8080 };

function options(values: object): NodeOptions {
  const file = { path: 'node.json', text: JSON.stringify({ ...whole, ...values }) };
  return nodeOptions(resolveOptions('node', { flags: {}, environment: {}, file }));
}

describe('a node’s settings', () => {
  it('are complete with defaults', () => {
    expect(options({})).toMatchObject({
      postgres: { own: true, programs: 'auto', port: 0 },
      dataNodes: {
        rpcHost: '127.0.0.1',
        rpcFiles: undefined,
        credentials: { tls: 'auto' },
        versionPolicy: 'document',
        connectTimeoutMs: 5_000,
        callTimeoutMs: 120_000,
      },
    });
  });

  it('take a server by URL', () => {
    expect(options({ postgres: 'postgres://u@db/x' }).postgres).toEqual({
      own: false,
      url: 'postgres://u@db/x',
    });
  });

  it.each([
    ['no name', { name: undefined }, '"name" is missing'],
    ['a certificate without key', { rpcCertFile: '/c' }, '"rpcCertFile" and "rpcKeyFile" go together'],
    ['a key without certificate', { rpcKeyFile: '/k' }, '"rpcCertFile" and "rpcKeyFile" go together'],
    ['calls from other machines in the clear', { rpcHost: '0.0.0.0' }, '"rpcHost" is 0.0.0.0'],
    ['an authority and root certificates', { caFolder: '/ca', caFile: '/ca.crt' }, '"caFolder" makes'],
  ])('with %s are refused', (_what, values, message) => {
    expect(() => options(values)).toThrow(message);
  });

  const member = { cluster: 'main', coordinator: 'http://c:1', groupPasswordFile: '/secret' };

  it('of a member of a group are complete with defaults', () => {
    expect(options({}).group).toBeUndefined();
    expect(options(member).group).toMatchObject({
      cluster: 'main',
      kind: 'manager',
      size: 3,
      durability: 'safety',
      host: '127.0.0.1',
      backupFolder: '/srv/an1/backups',
    });
    expect(options({ ...member, clusterKind: 'service' }).group).toMatchObject({ size: 2 });
  });

  it.each([
    ['of a data node', { kind: 'data' }, '"cluster" is for access nodes'],
    ['without a coordinator', { coordinator: undefined }, 'needs a "coordinator"'],
    ['of two managers', { clusterSize: 2 }, 'has 3 members or more'],
    ['without a common secret', { groupPasswordFile: undefined }, 'needs a "groupPasswordFile"'],
    ['with half an HAProxy', { writePort: 5000 }, '"writePort" and "readPort"'],
  ])('of a member %s are refused', (_what, values, message) => {
    expect(() => options({ ...member, ...values })).toThrow(message);
  });

  it('take calls from other machines with a certificate', () => {
    const { dataNodes } = options({ rpcHost: '0.0.0.0', rpcCertFile: '/c', rpcKeyFile: '/k' });
    expect(dataNodes.rpcFiles).toEqual({ certFile: '/c', keyFile: '/k' });
  });
});
