import { pipeline } from 'node:stream/promises';
import { from as copyFrom, to as copyTo } from 'pg-copy-streams';
import type { Connection, QueryOptions } from './connection.ts';

/**
 * Runs `copy … to stdout` and hands its bytes to `consume` as they come; the server waits while `consume` does,
 * so memory is that of some chunks whatever the size. Chunks end anywhere, not at rows. Returns the number of
 * rows.
 *
 * When `consume` fails the session is destroyed: the rest of the rows would have to be read to keep it.
 * There is no deadline but `options.timeoutMs` and the session's `statement_timeout`.
 */
export function copyOut(
  connection: Connection,
  sql: string,
  consume: (chunk: Buffer) => Promise<void> | void,
  options: QueryOptions = {},
): Promise<number> {
  const stream = copyTo(sql);
  let failure: { readonly error: unknown } | undefined;
  const work = async (): Promise<number> => {
    // Without a listener an error that comes while `consume` is awaited would end the process.
    stream.on('error', () => {});
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      try {
        await consume(chunk);
      } catch (error) {
        failure = { error };
        connection.destroy();
        throw error;
      }
    }
    return stream.rowCount;
  };
  return connection.streaming(stream, work, { timeoutMs: 0, ...options }).catch((error: unknown) => {
    throw failure ? failure.error : error;
  });
}

/**
 * Runs `copy … from stdin` with the bytes of `source`, read as fast as the server takes them. Returns the number
 * of rows. When `source` fails, so does the statement, and nothing of it is kept.
 */
export function copyIn(
  connection: Connection,
  sql: string,
  source: AsyncIterable<Buffer> | Iterable<Buffer>,
  options: QueryOptions = {},
): Promise<number> {
  const stream = copyFrom(sql);
  const work = async (): Promise<number> => {
    await pipeline(source, stream);
    return stream.rowCount;
  };
  return connection.streaming(stream, work, { timeoutMs: 0, ...options });
}
