import type { Finding } from './findings.ts';
import type {
  DatabaseLocale,
  DatabaseObservation,
  InstalledExtension,
  ServerObservation,
} from './observe.ts';
import type { DatabaseDescription, Notice, RegisteredNode } from './request.ts';
import { describeServer, describeTarget, type Target } from './target.ts';
import { chooseVersion, isCompatible, type VersionPolicy } from './version-rule.ts';

/**
 * Decides, before anything is written, whether a database can become a data node and what has to be made.
 * Pure: what was seen and what is wanted come in, findings or a plan come out.
 */
export interface Wanted {
  readonly name: string;
  readonly target: Target;
  readonly caller: string;
  readonly bootstrap: boolean;
  readonly access: DatabaseDescription;
  /** The registry as committed and as the caller's transaction sees it. */
  readonly nodes: readonly RegisteredNode[];
  readonly policy: VersionPolicy;
}

export interface Observed {
  /** Undefined with `bootstrap => false`, which needs no maintenance database. */
  readonly server?: ServerObservation | undefined;
  /** Undefined when the database does not exist. */
  readonly database?: DatabaseObservation | undefined;
}

export interface PlannedExtension {
  readonly name: 'timescaledb' | 'varve';
  readonly version: string;
  readonly schema: string;
  /** `script` where the server offers no control file. */
  readonly method: 'extension' | 'script';
}

export interface ProvisionPlan {
  readonly createDatabase: boolean;
  readonly schemas: readonly string[];
  readonly extensions: readonly PlannedExtension[];
  /** The mark that was seen on the database, which must still be there when ours is set. */
  readonly seenToken: string | null;
}

export interface Judgement {
  readonly findings: readonly Finding[];
  readonly notices: readonly Notice[];
  readonly plan: ProvisionPlan;
}

export const MIN_SERVER_VERSION = 150_000;
const NEXT_STEP = 'Make sure that the data node does not contain any existing objects prior to adding it.';

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

interface PlannedExtensions {
  readonly findings: Finding[];
  readonly schemas: string[];
  readonly extensions: PlannedExtension[];
}

/** `timescaledb` where the access database has it, and `varve` always. */
function planExtensions(wanted: Wanted, observed: Observed): PlannedExtensions {
  const { access, bootstrap } = wanted;
  const planned: PlannedExtensions = { findings: [], schemas: [], extensions: [] };
  const needed: { name: 'timescaledb' | 'varve'; version: string; schema: string }[] = [
    ...(access.timescaledb ? [{ name: 'timescaledb' as const, ...access.timescaledb }] : []),
    { name: 'varve' as const, version: access.varve.version, schema: access.varve.schema },
  ];
  for (const want of needed) {
    const installed = installedThere(want.name, observed.database);
    if (installed) planned.findings.push(...judgeInstalled(wanted, want, installed));
    else if (bootstrap) planCreation(wanted, observed, want, planned);
    else {
      planned.findings.push({
        code: 'DATA_NODE_INVALID',
        message: `${describeTarget(wanted.target)} does not have extension "${want.name}"`,
        hint: 'Install it there, or let the data node be bootstrapped: bootstrap => true.',
      });
    }
  }
  return planned;
}

function installedThere(
  name: 'timescaledb' | 'varve',
  database: DatabaseObservation | undefined,
): InstalledExtension | undefined {
  const byScript = name === 'varve' ? database?.description?.varve : undefined;
  return (
    database?.extensions[name] ??
    (byScript && {
      version: byScript.version,
      schema: byScript.schema,
      schemaOwner: byScript.schema_owner ?? byScript.owner,
      owner: byScript.owner,
    })
  );
}

function judgeInstalled(
  wanted: Wanted,
  want: { readonly name: string; readonly version: string; readonly schema: string },
  installed: InstalledExtension,
): Finding[] {
  const { caller, target, policy } = wanted;
  const server = describeServer(target);
  const findings: Finding[] = [];
  if (!isCompatible(installed.version, want.version, policy)) {
    findings.push({
      code: 'DATA_NODE_INVALID',
      message: `remote PostgreSQL instance has an incompatible ${want.name} extension version`,
      detail: `Access node version: ${want.version}, remote version: ${installed.version}.`,
      hint: 'The data node needs the same major version and a minor version that is not newer. Update the older side.',
    });
  }
  if (installed.owner !== caller) {
    findings.push({
      code: 'DATA_NODE_INVALID',
      message: `invalid owner of extension "${want.name}" in ${describeTarget(target)}`,
      detail: `Expected extension owner to be "${caller}", but it was "${installed.owner}".`,
      hint: `Add the data node as "${installed.owner}", or drop the extension there and let it be created.`,
    });
  }
  if (installed.schema !== 'public' && installed.schemaOwner !== caller) {
    findings.push({
      code: 'DATA_NODE_INVALID',
      message: `schema "${installed.schema}" of extension "${want.name}" on ${server} is neither public nor owned by "${caller}"`,
      detail: `Its owner is "${installed.schemaOwner}".`,
      hint: `On the data node: ALTER SCHEMA "${installed.schema}" OWNER TO "${caller}".`,
    });
  }
  if (installed.schema !== want.schema) {
    findings.push({
      code: 'DATA_NODE_INVALID',
      message: `extension "${want.name}" is in another schema in ${describeTarget(target)}`,
      detail: `Expected schema "${want.schema}", as on the access node, but it was "${installed.schema}".`,
      hint: 'Drop the extension there and let it be created.',
    });
  }
  return findings;
}

function planCreation(
  wanted: Wanted,
  { server, database }: Observed,
  want: { readonly name: 'timescaledb' | 'varve'; readonly version: string; readonly schema: string },
  planned: PlannedExtensions,
): void {
  const offers = (database ?? server)?.offers[want.name] ?? [];
  const version = chooseVersion(offers, want.version, wanted.policy);
  if (version !== undefined) {
    planned.extensions.push({ name: want.name, version, schema: want.schema, method: 'extension' });
  } else if (want.name === 'varve' && offers.length === 0) {
    // The daemon brings the script along; it creates the version of its own access node.
    planned.extensions.push({ name: 'varve', version: want.version, schema: want.schema, method: 'script' });
  } else {
    planned.findings.push({
      code: 'DATA_NODE_INVALID',
      message:
        offers.length === 0
          ? `extension "${want.name}" is not available on ${describeServer(wanted.target)}`
          : `remote PostgreSQL instance has an incompatible ${want.name} extension version`,
      detail: `Access node version: ${want.version}, available remote versions: ${offers.join(', ') || 'none'}.`,
      hint: `Install a compatible version of ${want.name} on the remote PostgreSQL instance.`,
    });
  }
  planSchema(wanted, database, want.schema, planned);
  // Its catalog is always in a schema of this name.
  if (want.name === 'varve' && want.schema !== 'varve' && database?.schemas.includes('varve'))
    planned.findings.push(schemaFinding(wanted.target, 'varve'));
}

function planSchema(
  wanted: Wanted,
  database: DatabaseObservation | undefined,
  schema: string,
  planned: PlannedExtensions,
): void {
  const { target, caller } = wanted;
  if (schema === 'public') {
    if (database && !database.mayCreateInPublic) {
      planned.findings.push(permissionFinding(wanted, 'schema public', 'GRANT CREATE ON SCHEMA public'));
    }
  } else if (database?.schemas.includes(schema) && !ownSchema(database, schema, caller)) {
    planned.findings.push(schemaFinding(target, schema));
  } else if (!planned.schemas.includes(schema) && !database?.schemas.includes(schema)) {
    planned.schemas.push(schema);
  }
  if (
    database &&
    !database.mayCreateInDatabase &&
    !planned.findings.some((f) => f.code === 'PERMISSION_DENIED')
  ) {
    planned.findings.push(
      permissionFinding(
        wanted,
        `database "${target.database}"`,
        `GRANT CREATE ON DATABASE "${target.database}"`,
      ),
    );
  }
}

function schemaFinding(target: Target, schema: string): Finding {
  return {
    code: 'DATA_NODE_SCHEMA_EXISTS',
    message: `schema "${schema}" already exists in ${describeTarget(target)}, aborting`,
    hint: NEXT_STEP,
  };
}

/** The schema of the other extension that is there already and validated. */
function ownSchema(database: DatabaseObservation, schema: string, caller: string): boolean {
  return Object.values(database.extensions).some((e) => e.schema === schema && e.schemaOwner === caller);
}

function permissionFinding(wanted: Wanted, what: string, grant: string): Finding {
  return {
    code: 'PERMISSION_DENIED',
    message: `permission denied to create objects in ${what} on ${describeServer(wanted.target)}`,
    hint: `On the data node: ${grant} TO "${wanted.caller}".`,
  };
}
