import * as z from 'zod';
import { VarveError } from '../core/errors.ts';

/** One extension in one database: `varve` or `timescaledb`. */
const installedSchema = z.object({
  version: z.string(),
  schema: z.string(),
  schema_owner: z.string().optional(),
  owner: z.string(),
  method: z.enum(['extension', 'script']).optional(),
});
export type Installed = z.infer<typeof installedSchema>;

/** What `varve._describe_database()` says of the database it runs in. */
export const databaseSchema = z.object({
  uuid: z.uuid(),
  distId: z.uuid().nullable(),
  distOwner: z.string().nullable(),
  distToken: z.uuid().nullable(),
  distMade: z
    .object({ extensions: z.array(z.string()), schemas: z.array(z.string()) })
    .partial()
    .nullable(),
  database: z.string(),
  encoding: z.string(),
  collation: z.string(),
  characterType: z.string(),
  /** `c` libc, `i` ICU, `b` builtin. */
  provider: z.string(),
  locale: z.string().nullable(),
  icuRules: z.string().nullable(),
  collationVersion: z.string().nullable(),
  serverVersion: z.number(),
  serverPort: z.number(),
  varve: installedSchema,
  timescaledb: installedSchema.nullable(),
});
export type DatabaseDescription = z.infer<typeof databaseSchema>;

const nodeSchema = z.object({
  name: z.string(),
  host: z.string(),
  port: z.number(),
  database: z.string(),
  uuid: z.uuid(),
  token: z.uuid(),
  available: z.boolean(),
  /** Of the caller's user mapping, where it has one. */
  password: z.string().nullable(),
});
/** A row of the registry as the caller's transaction sees it. */
export type RegisteredNode = z.infer<typeof nodeSchema>;

const requestSchema = z.object({
  op: z.string(),
  caller: z.string(),
  database: z.string(),
  xid: z.string(),
  access: databaseSchema,
  nodes: z.array(nodeSchema),
  operations: z.array(z.uuid()),
  arguments: z.record(z.string(), z.unknown()),
});

/** What a SQL function asks of the daemon; made by `varve._request`. */
export type Request = z.infer<typeof requestSchema>;

/** @throws INVALID_ARGUMENT when it is not what the extension of this version sends */
export function parseRequest(value: unknown): Request {
  return parse(requestSchema, value, 'request');
}

/** @throws INVALID_ARGUMENT naming the first field that does not fit */
export function parse<T>(schema: z.ZodType<T>, value: unknown, what: string): T {
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new VarveError(
    'INVALID_ARGUMENT',
    `${what}: ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
    {
      hint: 'The extension in the database and the daemon may be of different versions: update both.',
    },
  );
}

/** A message for the client beside the result, raised as NOTICE or WARNING before the function returns. */
export interface Notice {
  readonly severity: 'notice' | 'warning';
  readonly sqlstate?: string;
  readonly message: string;
  readonly detail?: string;
}

export interface Reply {
  readonly result: object;
  readonly notices?: readonly Notice[];
  /** Set when work waits for the caller's transaction: the SQL side writes the witness row `varve.operation`. */
  readonly operation?: string;
}
