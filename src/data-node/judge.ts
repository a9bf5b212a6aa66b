import type { Finding } from './findings.ts';
import { installedThere, planExtensions } from './judge-extensions.ts';
import type { Judgement, Observed, Wanted } from './judgement.ts';
import type { DatabaseLocale, DatabaseObservation, ServerObservation } from './observe.ts';
import type { Notice } from './request.ts';
import { describeServer, describeTarget, type Target } from './target.ts';

export const MIN_SERVER_VERSION = 150_000;

/**
 * Decides, before anything is written, whether a database can become a data node and what has to be made.
 * Pure: what was seen and what is wanted come in, findings or a plan come out.
 */
export function judge(wanted: Wanted, observed: Observed): Judgement {
  const findings: Finding[] = [];
  const notices: Notice[] = [];
  const { server, database } = observed;
  const seen = database ?? server;
  if (database?.description?.uuid === wanted.access.uuid) return selfAdd();
  if (seen) findings.push(...judgeServer(wanted, seen));
  if (database) {
    findings.push(...judgeLocale(wanted, database.locale));
    findings.push(...judgeMembership(wanted, database));
    notices.push(...existingNotices(wanted, database));
  } else if (server) {
    findings.push(...judgeCreation(wanted, server));
  }
  const provisioned = planExtensions(wanted, observed);
  findings.push(...provisioned.findings);
  return {
    findings,
    notices,
    plan: {
      createDatabase: wanted.bootstrap && !database,
      schemas: provisioned.schemas,
      extensions: provisioned.extensions,
      seenToken: database?.description?.distToken ?? null,
    },
  };
}

/** The only finding in its case: what else differs between a database and itself is of no interest. */
function selfAdd(): Judgement {
  const finding: Finding = {
    code: 'DATA_NODE_INVALID',
    message: 'cannot add the current database as a data node to itself',
    detail:
      'Adding the current database as a data node to itself would create a cycle. Use a different instance or database for the data node.',
    hint: "Check that the 'port' parameter refers to a different instance or that the 'database' parameter refers to a different database.",
  };
  const plan = { createDatabase: false, schemas: [], extensions: [], seenToken: null };
  return { findings: [finding], notices: [], plan };
}

function judgeServer(wanted: Wanted, seen: ServerObservation | DatabaseObservation): Finding[] {
  const server = describeServer(wanted.target);
  const findings: Finding[] = [];
  if (seen.serverVersion < MIN_SERVER_VERSION) {
    findings.push({
      code: 'DATA_NODE_INVALID',
      message: `the server on ${server} is PostgreSQL ${Math.floor(seen.serverVersion / 10_000)}, which is too old`,
      hint: 'Data nodes run PostgreSQL 15 or newer.',
    });
  }
  if (seen.inRecovery) {
    findings.push({
      code: 'DATA_NODE_READ_ONLY',
      message: `the server on ${server} is a standby and takes no writes`,
      hint: 'Give the address of its primary.',
    });
  }
  return findings;
}

function judgeCreation(wanted: Wanted, server: ServerObservation): Finding[] {
  const { access, target, caller } = wanted;
  const findings: Finding[] = [];
  if (!server.createDatabase) {
    findings.push({
      code: 'PERMISSION_DENIED',
      message: `permission denied to create database on ${describeServer(target)}`,
      detail: `Role "${caller}" lacks CREATEDB there.`,
      hint: `On the data node: ALTER ROLE "${caller}" CREATEDB; or create the database "${target.database}" with this owner beforehand.`,
    });
  }
  const needs = (major: number, what: string, value: string): void => {
    if (server.serverVersion < major * 10_000)
      findings.push(tooOldFinding(wanted, server, { major, what, value }));
  };
  if (access.provider === 'b') needs(17, 'locale provider', 'builtin');
  if (access.locale === 'PG_UNICODE_FAST') needs(18, 'locale', access.locale);
  if (access.icuRules !== null) needs(16, 'ICU rules', access.icuRules);
  return findings;
}

function tooOldFinding(
  { access, target }: Wanted,
  server: ServerObservation,
  lacks: { readonly major: number; readonly what: string; readonly value: string },
): Finding {
  const { major, what, value } = lacks;
  return {
    code: 'DATA_NODE_INVALID',
    message: `the server on ${describeServer(target)} is too old for the ${what} of the access database`,
    detail: `Database "${access.database}" has ${what} "${value}", which PostgreSQL has since ${major}; that server is PostgreSQL ${Math.floor(server.serverVersion / 10_000)}.`,
    hint: `Use a server of PostgreSQL ${major} or newer for the data node.`,
  };
}

function judgeLocale(wanted: Wanted, there: DatabaseLocale): Finding[] {
  const { access } = wanted;
  const findings: Finding[] = [];
  const compare = (what: string, expected: string, actual: string, same = expected === actual): void => {
    if (!same) findings.push(localeFinding(wanted, what, expected, `"${actual}"`));
  };
  compare('encoding', access.encoding, there.encoding);
  compare('collation', access.collation, there.collation, sameLocale(access.collation, there.collation));
  compare(
    'LC_CTYPE',
    access.characterType,
    there.characterType,
    sameLocale(access.characterType, there.characterType),
  );
  compare('locale provider', providerName(access.provider), providerName(there.provider));
  if (access.provider === there.provider) {
    compare('locale', access.locale ?? '', there.locale ?? '');
    compare('ICU rules', access.icuRules ?? '', there.icuRules ?? '');
  }
  return findings;
}

function localeFinding(wanted: Wanted, what: string, expected: string, actual: string): Finding {
  return {
    code: 'DATA_NODE_INVALID',
    message: `database "${wanted.target.database}" on ${describeServer(wanted.target)} has the wrong ${what}`,
    detail: `Expected ${what} "${expected}", as in database "${wanted.access.database}" on the access node, but it was ${actual}.`,
    hint: 'Name another database, or create it anew with the access node’s encoding and locale.',
  };
}

/** `C.UTF-8` and `C.utf8` name one locale; PostgreSQL reports whichever was typed. */
function sameLocale(a: string, b: string): boolean {
  const normal = (name: string): string =>
    name.replace(/\.(.*)$/, (suffix) => suffix.toLowerCase().replaceAll('-', ''));
  return normal(a) === normal(b);
}

function providerName(provider: string): string {
  return { c: 'libc', i: 'icu', b: 'builtin' }[provider] ?? provider;
}

function judgeMembership(wanted: Wanted, database: DatabaseObservation): Finding[] {
  const { access, target, nodes } = wanted;
  const there = database.description;
  if (!there) return [];
  if (there.distId === null) return [];
  if (there.distId === there.uuid) {
    return [
      {
        code: 'DATA_NODE_FOREIGN',
        message: `${describeTarget(target)} is itself an access node`,
        detail: `It has data nodes of its own; its uuid is ${there.uuid}.`,
        hint: 'Name another database, or delete its data nodes there first.',
      },
    ];
  }
  if (there.distId !== access.uuid) {
    return [
      {
        code: 'DATA_NODE_FOREIGN',
        message: `${describeTarget(target)} is already a member of a distributed database`,
        detail: `It belongs to ${there.distOwner ?? 'an access node that left no name'} (dist_id ${there.distId}).`,
        hint: `Name another database. If that distributed database is gone for good, the owner of the extension runs there: SELECT varve.clear_dist_id('${there.distToken}').`,
      },
    ];
  }
  const registered = nodes.find((node) => node.uuid === there.uuid);
  return registered ? [duplicateFinding(target, registered.name)] : [];
}

export function duplicateFinding(target: Target, name: string): Finding {
  return {
    code: 'DATA_NODE_EXISTS',
    message: `${describeTarget(target)} is data node "${name}" already`,
    hint: `Use "${name}", or delete it before adding its database under another name.`,
  };
}

function existingNotices(wanted: Wanted, database: DatabaseObservation): Notice[] {
  const notices: Notice[] = [];
  if (wanted.bootstrap) {
    const message = `database "${wanted.target.database}" already exists on data node, skipping`;
    notices.push({ severity: 'notice', sqlstate: '42P04', message });
    for (const name of ['timescaledb', 'varve'] as const) {
      const installed = installedThere(name, database);
      if (!installed) continue;
      notices.push({
        severity: 'notice',
        sqlstate: '42710',
        message: `extension "${name}" already exists on data node, skipping`,
        detail: `Its version on ${describeServer(wanted.target)} is ${installed.version}.`,
      });
    }
  }
  const [here, there] = [wanted.access.collationVersion, database.locale.collationVersion];
  if (here !== null && there !== null && here !== there) {
    notices.push({
      severity: 'warning',
      sqlstate: '01000',
      message: `database "${wanted.target.database}" was created with collation version ${there}, the access node's with ${here}`,
      detail: 'Text may sort differently on the two.',
    });
  }
  return notices;
}
