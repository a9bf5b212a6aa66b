import { errorFromJson, messageOf, VarveError } from '../../core/errors.ts';
import type { RestoreTarget } from './send-filesets.ts';
import {
  encodeBegin,
  encodeRestoredHead,
  RESTORE_PATH,
  type RestoreBegin,
  type RestoredFileset,
  type RestoreLook,
} from './restore-messages.ts';

/** A storage node over HTTP. */
export class HttpRestoreTarget implements RestoreTarget {
  readonly node: string;
  readonly #endpoint: string;
  readonly #headers: Readonly<Record<string, string>>;

  constructor(node: string, endpoint: string, token: string | undefined) {
    this.node = node;
    this.#endpoint = endpoint.replace(/\/+$/, '');
    this.#headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
  }

  async look(namespace: string, signal: AbortSignal): Promise<RestoreLook> {
    const body = encodeBegin({ namespace, backup: '', version: 0n });
    return (await this.#ask('look', { body }, signal)) as RestoreLook;
  }

  async begin(begin: RestoreBegin, signal: AbortSignal): Promise<RestoreLook> {
    return (await this.#ask('begin', { body: encodeBegin(begin) }, signal)) as RestoreLook;
  }

  async send(
    fileset: RestoredFileset,
    content: () => AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<'taken' | 'present'> {
    let failure: unknown;
    async function* parts(): AsyncGenerator<Uint8Array, void, void> {
      yield encodeRestoredHead(fileset);
      try {
        yield* content();
      } catch (error) {
        failure = error;
        throw error;
      }
    }
    try {
      // A body of unknown length goes one way only: the answer comes when all of it has been sent.
      const init = { body: ReadableStream.from(parts()), duplex: 'half' } as RequestInit;
      const { outcome } = (await this.#ask('fileset', init, signal)) as { outcome: 'taken' | 'present' };
      return outcome;
    } catch (error) {
      // What could not be read here is not that node's fault.
      throw failure ?? error;
    }
  }

  async end(begin: RestoreBegin, signal: AbortSignal): Promise<void> {
    await this.#ask('end', { body: encodeBegin(begin) }, signal);
  }

  async #ask(what: string, init: RequestInit, signal: AbortSignal): Promise<unknown> {
    let response: Response;
    try {
      const url = `${this.#endpoint}${RESTORE_PATH}${what}`;
      response = await fetch(url, { method: 'POST', headers: this.#headers, signal, ...init });
      if (response.ok) return await response.json();
    } catch (error) {
      signal.throwIfAborted();
      const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
      throw new VarveError(
        'STORAGE_NOT_READY',
        `node ${this.node} does not answer at ${this.#endpoint}: ${messageOf(cause)}`,
        { hint: 'Run it again when the node is back: it goes on where it was.', cause: error },
      );
    }
    const text = await response.text();
    throw refusal(this.node, response.status, text);
  }
}

function refusal(node: string, status: number, text: string): VarveError {
  let error: VarveError;
  try {
    error = errorFromJson(JSON.parse(text));
  } catch {
    return new VarveError('STORAGE_NOT_READY', `node ${node} answered ${status} ${text.slice(0, 200)}`);
  }
  const { code, message, detail, hint } = error;
  return new VarveError(code, `${node}: ${message}`, { detail, hint });
}
