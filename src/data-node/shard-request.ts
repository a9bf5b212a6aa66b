import * as z from 'zod';

/** What the SQL functions of parts 54 to 58 send, and what `varve._upkeep` answers. */

const grantSchema = z.object({
  role: z.string().nullable(),
  privilege: z.string(),
  column: z.string().nullable(),
});

const indexSchema = z.object({ number: z.number().int(), definition: z.string() });

const shardSchema = z.object({
  number: z.number().int(),
  node: z.string(),
  schema: z.string(),
  table: z.string(),
  owner: z.string(),
  password: z.string().nullable(),
});
/** A shard as the caller's transaction sees it, with the password of its owner's user mapping where it has one. */
export type Shard = z.infer<typeof shardSchema>;

/** A table whose shards are to be made. */
export const tableSchema = z.object({
  hypertable: z.uuid(),
  table: z.object({ schema: z.string(), name: z.string() }),
  timeColumn: z.string(),
  timeType: z.string(),
  chunkInterval: z.string().regex(/^\d+$/),
  shardCount: z.number().int().min(1).max(4096),
  columns: z.array(
    z.object({
      name: z.string(),
      type: z.string(),
      collation: z.string().nullable(),
      notNull: z.boolean(),
    }),
  ),
  checks: z.array(z.object({ name: z.string(), definition: z.string() })),
  grants: z.array(grantSchema),
  indexes: z.array(indexSchema),
  /** Its members. */
  nodes: z.array(z.string()).min(1),
  /** Who comes or goes; missing when the table is new. */
  node: z.string().optional(),
  shards: z.array(shardSchema).default([]),
});
export type TableRequest = z.infer<typeof tableSchema>;

export const indexRequestSchema = z.object({
  table: z.string(),
  number: z.number().int(),
  definition: z.string(),
  shards: z.array(shardSchema),
});

export const grantRequestSchema = z.object({
  table: z.string(),
  hypertable: z.uuid(),
  grants: z.array(grantSchema),
  shards: z.array(shardSchema),
});
export type GrantRequest = z.infer<typeof grantRequestSchema>;

const placeSchema = z.object({
  node: z.string(),
  host: z.string(),
  port: z.number(),
  database: z.string(),
  schema: z.string(),
  table: z.string(),
  owner: z.string(),
  password: z.string().nullable(),
});

export const upkeepSchema = z.object({
  /** Of the access database. */
  uuid: z.uuid(),
  leaving: z.array(placeSchema.extend({ id: z.number(), hypertable: z.uuid(), onlyEmpty: z.boolean() })),
  hypertables: z.array(
    z.object({
      id: z.number(),
      uuid: z.uuid(),
      table: z.string(),
      grants: z.array(grantSchema),
      droppedIndexes: z.array(z.number()),
      shards: z.array(placeSchema.extend({ available: z.boolean() })),
    }),
  ),
});
export type Upkeep = z.infer<typeof upkeepSchema>;

/** Same for those whose work one session can do: on one database, in one role. */
export function placeKey(place: {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly owner: string;
}): string {
  return JSON.stringify([place.host, place.port, place.database, place.owner]);
}
