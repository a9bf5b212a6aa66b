import type { Finding } from './findings.ts';
import type { Observed, PlannedExtension, Wanted } from './judgement.ts';
import type { DatabaseObservation, InstalledExtension } from './observe.ts';
import { describeServer, describeTarget, type Target } from './target.ts';
import { chooseVersion, isCompatible } from './version-rule.ts';

const NEXT_STEP = 'Make sure that the data node does not contain any existing objects prior to adding it.';

export interface PlannedExtensions {
  readonly findings: Finding[];
  readonly schemas: string[];
  readonly extensions: PlannedExtension[];
}

/** `timescaledb` where the access database has it, and `varve` always. */
export function planExtensions(wanted: Wanted, observed: Observed): PlannedExtensions {
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
  planned.findings.push(...judgeSharedSchema(wanted, planned.extensions, observed.database));
  return planned;
}

/** TimescaleDB's own multi-node had functions of the same names and arguments. */
const LAST_WITH_MULTI_NODE = '2.13.0';

function judgeSharedSchema(
  { access, target, bootstrap }: Wanted,
  planned: readonly PlannedExtension[],
  database: DatabaseObservation | undefined,
): Finding[] {
  const timescale =
    planned.find(({ name }) => name === 'timescaledb') ?? installedThere('timescaledb', database);
  const { schema } = access.varve;
  if (!bootstrap || !planned.some(({ name }) => name === 'varve') || timescale?.schema !== schema) return [];
  if (!isCompatible(timescale.version, LAST_WITH_MULTI_NODE)) return [];
  return [
    {
      code: 'DATA_NODE_INVALID',
      message: `timescaledb ${timescale.version} and varve cannot share schema "${schema}" on ${describeServer(target)}`,
      detail: 'Before 2.14 TimescaleDB has functions add_data_node, … of its own.',
      hint: 'Install timescaledb 2.14 or newer there, or put varve into a schema of its own on the access node.',
    },
  ];
}

/** By control file or by script. */
export function installedThere(
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
      detail: `Access node version: ${want.version}, available remote versions: ${offers.toSorted().join(', ') || 'none'}.`,
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
