import { randomUUID } from 'node:crypto';
import { testDatabase, type TestDatabase } from '../../../test/database.ts';
import { VarveError } from '../../core/errors.ts';
import type { Connection } from '../../postgres/connection.ts';
import { installControlSchema } from '../schema/install.ts';
import type { GroupShape } from '../schema/default-rows.ts';
import { MasterControlDatabase, type ControlDatabase } from './control-database.ts';
import type { WorkLog } from './task.ts';

/** A control database of a test: what it has is gone with it. */
export interface TestControl extends AsyncDisposable {
  readonly database: TestDatabase;
  readonly control: ControlDatabase;
  readonly shape: GroupShape;
  /** A session of its own, to look and to change. */
  readonly connection: Connection;
}

export const TEST_KEY_FINGERPRINT = '0123456789abcdef';

export async function testControl(
  shape: Partial<GroupShape> = {},
  keyFingerprint = TEST_KEY_FINGERPRINT,
): Promise<TestControl> {
  const whole: GroupShape = { cluster: 'main', kind: 'service', replicated: true, ...shape };
  const database = await testDatabase();
  const connection = await database.connect();
  await connection.query(
    `do $$ begin create role rdpg superuser; exception when duplicate_object or unique_violation then null; end $$`,
  );
  await installControlSchema(connection, { shape: whole, keyFingerprint });
  const control = new MasterControlDatabase({ master: () => database.endpoint });
  return {
    database,
    control,
    shape: whole,
    connection,
    async [Symbol.asyncDispose]() {
      await control[Symbol.asyncDispose]();
      await connection.close();
      await database[Symbol.asyncDispose]();
    },
  };
}

export interface LoggedLine {
  readonly level: string;
  readonly fields: Readonly<Record<string, unknown>>;
  readonly message: string;
}

/** A log that keeps its lines. */
export function testLog(): WorkLog & { readonly lines: LoggedLine[] } {
  const lines: LoggedLine[] = [];
  const at =
    (level: string) =>
    (fields: object, message: string): void => {
      lines.push({ level, fields: fields as Record<string, unknown>, message });
    };
  return { lines, info: at('info'), warn: at('warn'), error: at('error') };
}

/**
 * A control database whose user dies at its `at`-th statement: before it is sent, or when it has been carried
 * out and the answer is under way. From then on nothing is sent any more, as of a process that is gone.
 */
export function dyingControl(
  real: ControlDatabase,
  at: number,
  when: 'before' | 'after',
): ControlDatabase & { readonly dead: () => boolean; readonly statements: () => number } {
  let statements = 0;
  let dead = false;
  const death = (): VarveError =>
    new VarveError('CONNECTION_LOST', `died at statement ${at} (${randomUUID()})`);
  const mortal = (connection: Connection): Connection => {
    const query = async (...args: Parameters<Connection['query']>): Promise<unknown> => {
      if (dead) throw death();
      statements += 1;
      if (statements === at) dead = true;
      if (statements === at && when === 'before') {
        connection.destroy();
        throw death();
      }
      const result = await connection.query(...args);
      if (dead) {
        connection.destroy();
        throw death();
      }
      return result;
    };
    return new Proxy(connection, {
      get(target, name) {
        if (name === 'query') return query;
        if (name === 'maybeOne' || name === 'one') {
          return async (...args: Parameters<Connection['query']>) =>
            ((await query(...args)) as { rows: unknown[] }).rows[0];
        }
        const value = Reflect.get(target, name, target) as unknown;
        return typeof value === 'function' ? (value.bind(target) as unknown) : value;
      },
    });
  };
  const withConnection: ControlDatabase['withConnection'] = async (work, signal) => {
    if (dead) throw death();
    return real.withConnection((connection) => work(mortal(connection)), signal);
  };
  return {
    dead: () => dead,
    statements: () => statements,
    withConnection,
    transaction: (work, signal) =>
      withConnection(async (connection) => {
        await connection.query('begin');
        const result = await work(connection);
        await connection.query('commit');
        return result;
      }, signal),
  };
}
