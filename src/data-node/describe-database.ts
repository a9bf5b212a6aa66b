import type { Connection } from '../postgres/connection.ts';
import { databaseSchema, parse, type DatabaseDescription } from './request.ts';

/** What Varve's own objects say of the database that a session is in; undefined where they are not installed. */
export async function describeDatabase(session: Connection): Promise<DatabaseDescription | undefined> {
  const { installed } = await session.one<{ installed: boolean }>(
    `select to_regprocedure('varve._describe_database()') is not null as installed`,
  );
  return installed ? describeInstalled(session) : undefined;
}

/** The same where it is known that they are installed. */
export async function describeInstalled(session: Connection): Promise<DatabaseDescription> {
  const { description } = await session.one<{ description: unknown }>(
    'select varve._describe_database() as description',
  );
  return parse(databaseSchema, description, 'varve._describe_database()');
}
