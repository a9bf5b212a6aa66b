import { describe, expect, it } from 'vitest';
import { findingsError } from './findings.ts';
import { judge } from './judge.ts';
import type { Observed, Wanted } from './judgement.ts';
import type { DatabaseLocale, DatabaseObservation, ServerObservation } from './observe.ts';
import type { DatabaseDescription } from './request.ts';

const ACCESS_UUID = '00000000-0000-4000-8000-00000000000a';
const NODE_UUID = '00000000-0000-4000-8000-00000000000b';
const OTHER_UUID = '00000000-0000-4000-8000-00000000000c';

const locale: DatabaseLocale = {
  encoding: 'UTF8',
  collation: 'C.UTF-8',
  characterType: 'C.UTF-8',
  provider: 'c',
  locale: null,
  icuRules: null,
  collationVersion: null,
};

const access: DatabaseDescription = {
  ...locale,
  uuid: ACCESS_UUID,
  distId: null,
  distOwner: null,
  distToken: null,
  distMade: null,
  database: 'app',
  serverVersion: 180_000,
  serverPort: 5432,
  varve: { version: '0.1.0', schema: 'public', owner: 'alice' },
  timescaledb: null,
};

const server: ServerObservation = {
  serverVersion: 180_000,
  inRecovery: false,
  superuser: false,
  createDatabase: true,
  offers: { varve: ['0.1.0'] },
  database: null,
};

const empty: DatabaseObservation = {
  ...server,
  locale,
  mayCreateInDatabase: true,
  mayCreateInPublic: true,
  extensions: {},
  schemas: [],
  description: null,
};

const installed: DatabaseObservation = {
  ...empty,
  extensions: {
    varve: { version: '0.1.0', schema: 'public', schemaOwner: 'pg_database_owner', owner: 'alice' },
  },
  description: { ...access, uuid: NODE_UUID, database: 'dn' },
};

function wanted(more: Partial<Wanted> = {}): Wanted {
  return {
    name: 'dn1',
    target: { host: 'h', port: 5433, database: 'dn' },
    caller: 'alice',
    bootstrap: true,
    access,
    nodes: [],
    policy: 'document',
    ...more,
  };
}

function messages(want: Wanted, observed: Observed): string[] {
  return judge(want, observed).findings.map((finding) => `${finding.code}: ${finding.message}`);
}

describe('a database that does not exist', () => {
  it('is created with all that the access database has', () => {
    const { findings, plan } = judge(wanted(), { server });
    expect(findings).toEqual([]);
    expect(plan).toEqual({
      createDatabase: true,
      schemas: [],
      extensions: [{ name: 'varve', version: '0.1.0', schema: 'public', method: 'extension' }],
      seenToken: null,
    });
  });

  it('gets the schema of the access node, which is made', () => {
    const magic = { ...access, varve: { ...access.varve, schema: 'magic' } };
    expect(judge(wanted({ access: magic }), { server }).plan.schemas).toEqual(['magic']);
  });

  it('gets the objects by script where the server has no control file', () => {
    expect(judge(wanted(), { server: { ...server, offers: {} } }).plan.extensions[0]?.method).toBe('script');
  });

  it('gets timescaledb too where the access database has it, at a compatible version on offer', () => {
    const timescale = { ...access, timescaledb: { version: '2.13.1', schema: 'public', owner: 'alice' } };
    const offers = { varve: ['0.1.0'], timescaledb: ['2.12.2', '2.14.0'] };
    expect(judge(wanted({ access: timescale }), { server: { ...server, offers } }).plan.extensions).toEqual([
      { name: 'timescaledb', version: '2.12.2', schema: 'public', method: 'extension' },
      { name: 'varve', version: '0.1.0', schema: 'public', method: 'extension' },
    ]);
    expect(messages(wanted({ access: timescale }), { server })).toEqual([
      'DATA_NODE_INVALID: extension "timescaledb" is not available on h:5433',
    ]);
    const newer = { varve: ['0.1.0'], timescaledb: ['2.14.0'] };
    expect(messages(wanted({ access: timescale }), { server: { ...server, offers: newer } })).toEqual([
      'DATA_NODE_INVALID: remote PostgreSQL instance has an incompatible timescaledb extension version',
    ]);
  });

  it.each([
    ['2.13.1', 'public', 1],
    ['2.0.0', 'public', 1],
    ['1.7.5', 'public', 0],
    ['2.14.0', 'public', 0],
    ['2.13.1', 'ts', 0],
  ])('gets timescaledb %s in schema %s beside varve in public: %d findings', (version, schema, count) => {
    const timescale = { ...access, timescaledb: { version, schema, owner: 'alice' } };
    const seen = { server: { ...server, offers: { varve: ['0.1.0'], timescaledb: [version] } } };
    expect(messages(wanted({ access: timescale }), seen)).toHaveLength(count);
  });

  it.each([
    [
      'no right to create databases',
      { createDatabase: false },
      {},
      'PERMISSION_DENIED: permission denied to create database on h:5433',
    ],
    [
      'a standby',
      { inRecovery: true },
      {},
      'DATA_NODE_READ_ONLY: the server on h:5433 is a standby and takes no writes',
    ],
    [
      'an old server',
      { serverVersion: 140_010 },
      {},
      'DATA_NODE_INVALID: the server on h:5433 is PostgreSQL 14, which is too old',
    ],
    [
      'the builtin provider before 17',
      { serverVersion: 160_000 },
      { provider: 'b', locale: 'C.UTF-8' },
      'DATA_NODE_INVALID: the server on h:5433 is too old for the locale provider of the access database',
    ],
    [
      'a builtin locale before 18',
      { serverVersion: 170_000 },
      { provider: 'b', locale: 'PG_UNICODE_FAST' },
      'DATA_NODE_INVALID: the server on h:5433 is too old for the locale of the access database',
    ],
    [
      'ICU rules before 16',
      { serverVersion: 150_000 },
      { provider: 'i', icuRules: '&a<b' },
      'DATA_NODE_INVALID: the server on h:5433 is too old for the ICU rules of the access database',
    ],
  ])('is refused for %s', (_why, there, here, message) => {
    const seen = { server: { ...server, ...there } };
    expect(messages(wanted({ access: { ...access, ...here } }), seen)).toEqual([message]);
  });
});

describe('a database that exists', () => {
  it.each([
    ['encoding', { encoding: 'SQL_ASCII' }],
    ['collation', { collation: 'de_DE.UTF-8' }],
    ['LC_CTYPE', { characterType: 'de_DE.UTF-8' }],
    ['locale provider', { provider: 'i' }],
    ['locale', { locale: 'und' }],
  ])('is refused for the wrong %s', (what, there) => {
    const database = { ...installed, locale: { ...locale, ...there } };
    expect(messages(wanted(), { server, database })).toEqual([
      `DATA_NODE_INVALID: database "dn" on h:5433 has the wrong ${what}`,
    ]);
  });

  it('takes C.utf8 for C.UTF-8', () => {
    const database = { ...installed, locale: { ...locale, collation: 'C.utf8', characterType: 'C.utf8' } };
    expect(messages(wanted(), { server, database })).toEqual([]);
  });

  it('warns of another collation version', () => {
    const here = { ...access, collationVersion: '2.36' };
    const database = { ...installed, locale: { ...locale, collationVersion: '2.31' } };
    const { findings, notices } = judge(wanted({ access: here }), { server, database });
    expect(findings).toEqual([]);
    expect(notices.at(-1)).toMatchObject({ severity: 'warning' });
  });

  it('is taken as it is when everything fits', () => {
    const { findings, plan } = judge(wanted(), { server, database: installed });
    expect(findings).toEqual([]);
    expect(plan).toEqual({ createDatabase: false, schemas: [], extensions: [], seenToken: null });
  });

  it.each([
    [
      'a newer minor version',
      { version: '0.2.0' },
      'remote PostgreSQL instance has an incompatible varve extension version',
    ],
    ['another owner', { owner: 'bob' }, 'invalid owner of extension "varve" in database "dn" on h:5433'],
    [
      'another schema',
      { schema: 'magic', schemaOwner: 'alice' },
      'extension "varve" is in another schema in database "dn" on h:5433',
    ],
  ])('is refused for an extension with %s', (_why, there, message) => {
    const extensions = {
      varve: {
        version: '0.1.0',
        schema: 'public',
        schemaOwner: 'pg_database_owner',
        owner: 'alice',
        ...there,
      },
    };
    expect(messages(wanted(), { server, database: { ...installed, extensions } })).toEqual([
      `DATA_NODE_INVALID: ${message}`,
    ]);
  });

  it('is refused when the schema of its extension belongs to somebody else', () => {
    const magic = { ...access, varve: { ...access.varve, schema: 'magic' } };
    const extensions = { varve: { version: '0.1.0', schema: 'magic', schemaOwner: 'bob', owner: 'alice' } };
    expect(messages(wanted({ access: magic }), { server, database: { ...installed, extensions } })).toEqual([
      'DATA_NODE_INVALID: schema "magic" of extension "varve" on h:5433 is neither public nor owned by "alice"',
    ]);
  });

  it('is refused when the schema to be made is there already', () => {
    const magic = { ...access, varve: { ...access.varve, schema: 'magic' } };
    const { findings } = judge(wanted({ access: magic }), {
      server,
      database: { ...empty, schemas: ['magic'] },
    });
    expect(findings).toMatchObject([{ code: 'DATA_NODE_SCHEMA_EXISTS' }]);
    expect(findingsError('dn1', findings).sqlstate).toBe('42P06');
  });

  it('is refused when it has a schema varve of somebody else’s, whatever schema the extension goes to', () => {
    expect(messages(wanted(), { server, database: { ...empty, schemas: ['varve'] } })).toEqual([
      'DATA_NODE_SCHEMA_EXISTS: schema "varve" already exists in database "dn" on h:5433, aborting',
    ]);
    const inside = { ...access, varve: { ...access.varve, schema: 'varve' } };
    expect(
      messages(wanted({ access: inside }), { server, database: { ...empty, schemas: ['varve'] } }),
    ).toEqual([
      'DATA_NODE_SCHEMA_EXISTS: schema "varve" already exists in database "dn" on h:5433, aborting',
    ]);
  });

  it('tells of an extension that is there already, by control file or by script', () => {
    const script = { ...access.varve, owner: 'alice', schema_owner: 'alice', method: 'script' as const };
    for (const database of [
      installed,
      { ...installed, extensions: {}, description: { ...access, uuid: NODE_UUID, varve: script } },
    ]) {
      const { findings, notices } = judge(wanted(), { server, database });
      expect(findings).toEqual([]);
      expect(notices.map(({ message }) => message)).toEqual([
        'database "dn" already exists on data node, skipping',
        'extension "varve" already exists on data node, skipping',
      ]);
    }
  });

  it('is refused without its extension when it is only to be validated', () => {
    expect(messages(wanted({ bootstrap: false }), { database: empty })).toEqual([
      'DATA_NODE_INVALID: database "dn" on h:5433 does not have extension "varve"',
    ]);
  });

  it('is refused where the caller may not create in it', () => {
    const database = { ...empty, mayCreateInPublic: false };
    expect(messages(wanted(), { server, database })).toEqual([
      'PERMISSION_DENIED: permission denied to create objects in schema public on h:5433',
    ]);
  });
});

describe('membership', () => {
  const member = (there: Partial<DatabaseDescription>): DatabaseObservation => ({
    ...installed,
    description: { ...access, uuid: NODE_UUID, database: 'dn', ...there },
  });

  it('says the same of a self-add, whatever else is found', () => {
    for (const distId of [null, ACCESS_UUID, OTHER_UUID]) {
      const database = { ...member({ uuid: ACCESS_UUID, distId }), inRecovery: true };
      expect(messages(wanted(), { server, database })).toEqual([
        'DATA_NODE_INVALID: cannot add the current database as a data node to itself',
      ]);
    }
  });

  it('refuses an access node', () => {
    expect(messages(wanted(), { server, database: member({ distId: NODE_UUID }) })).toEqual([
      'DATA_NODE_FOREIGN: database "dn" on h:5433 is itself an access node',
    ]);
  });

  it('refuses the data node of another access database and says whose it is', () => {
    const [finding] = judge(wanted(), {
      server,
      database: member({ distId: OTHER_UUID, distOwner: 'database "shop" of access node an9' }),
    }).findings;
    expect(finding).toMatchObject({ code: 'DATA_NODE_FOREIGN' });
    expect(finding?.detail).toContain('database "shop" of access node an9');
  });

  it('refuses a database that is registered under another name', () => {
    const nodes = [
      {
        name: 'old',
        host: 'x',
        port: 1,
        database: 'dn',
        uuid: NODE_UUID,
        token: OTHER_UUID,
        available: true,
        password: null,
      },
    ];
    expect(messages(wanted({ nodes }), { server, database: member({ distId: ACCESS_UUID }) })).toEqual([
      'DATA_NODE_EXISTS: database "dn" on h:5433 is data node "old" already',
    ]);
  });

  it('takes one back that carries our mark and is registered nowhere', () => {
    const database = member({ distId: ACCESS_UUID, distToken: OTHER_UUID });
    const { findings, plan } = judge(wanted(), { server, database });
    expect(findings).toEqual([]);
    expect(plan.seenToken).toBe(OTHER_UUID);
  });
});

it('reports all findings in one error, the first one first', () => {
  const database = {
    ...installed,
    inRecovery: true,
    locale: { ...locale, encoding: 'LATIN1' },
    extensions: { varve: { version: '0.2.0', schema: 'public', schemaOwner: 'x', owner: 'bob' } },
  };
  const { findings } = judge(wanted(), { server, database });
  const error = findingsError('dn1', findings);
  expect(error.message).toBe('cannot add data node "dn1": 4 problems');
  expect(error.sqlstate).toBe('25006');
  for (const word of ['standby', 'encoding', 'incompatible', 'owner']) expect(error.detail).toContain(word);
});
