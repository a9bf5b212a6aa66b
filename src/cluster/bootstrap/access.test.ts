import { expect, test } from 'vitest';
import { groupHba, hbaAddress } from './access.ts';

test('peers get in with the password of the group, and nobody is trusted', () => {
  const peers = ['10.0.0.2', 'fd00::2', 'an3.example'].map(hbaAddress);
  expect(groupHba({ peers, tls: true })).toEqual([
    'hostssl all "rdpg" 10.0.0.2/32 scram-sha-256',
    'hostssl all "rdpg" fd00::2/128 scram-sha-256',
    'hostssl all "rdpg" an3.example scram-sha-256',
  ]);
  expect(groupHba({ peers: ['10.0.0.0/8'], tls: false })).toEqual([
    'host all "rdpg" 10.0.0.0/8 scram-sha-256',
  ]);
});
