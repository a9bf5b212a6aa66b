import { connect, type Socket } from 'node:net';
import { assert } from '../../core/errors.ts';

export interface HttpAnswer {
  readonly status: number;
  readonly body: Buffer;
}

/** Where a body of this size goes. */
export type BodyRoom = (sizeBytes: number) => Buffer;

const HEAD_BYTES = 16 * 1024;
const HEAD_END = '\r\n\r\n';
const STATUS = /^HTTP\/1\.1 (\d{3})/;
const LENGTH = /\r\ncontent-length: *(\d{1,15})\r\n/i;
const CLOSES = /\r\nconnection: *close\r\n/i;

/** The answer that is waited for. */
interface Awaited {
  readonly room: BodyRoom;
  readonly resolve: (answer: HttpAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** An answer whose head has come. */
interface Coming {
  readonly status: number;
  readonly body: Buffer;
  filledBytes: number;
}

/**
 * An HTTP/1.1 connection to another node, for one request at a time. Bodies are read from the socket to where they are
 * to be: Node's own client makes new memory for every piece, which costs more than all else when files are copied. It
 * understands what our nodes answer: a body of a given length.
 */
export class KeptConnection {
  readonly #socket: Socket;
  readonly #maxBodyBytes: number;
  readonly #head = Buffer.allocUnsafe(HEAD_BYTES);
  #headBytes = 0;
  #awaited: Awaited | undefined;
  #coming: Coming | undefined;
  #closed: Error | undefined;
  #closesAfter = false;
  /** Has answered before: it may have been closed by the other side since, without a fault of anybody. */
  #isUsed = false;

  constructor(endpoint: { readonly host: string; readonly port: number }, maxBodyBytes: number) {
    this.#maxBodyBytes = maxBodyBytes;
    this.#socket = connect({
      ...endpoint,
      noDelay: true,
      onread: { buffer: () => this.#room(), callback: (count) => this.#came(count) },
    });
    this.#socket.on('error', (error) => this.destroy(error));
    this.#socket.on('close', () => this.destroy(new Error('it closed the connection before its answer')));
    // Its end is not seen otherwise.
    this.#socket.resume();
  }

  /** It takes another request. */
  get isOpen(): boolean {
    return this.#closed === undefined && !this.#closesAfter;
  }

  /** It failed as a connection does that was kept too long: nothing came of an answer. */
  get isStale(): boolean {
    return this.#isUsed && this.#headBytes === 0 && this.#coming === undefined;
  }

  /** @throws what ended the connection; nothing is written to the room from then on */
  ask(request: Uint8Array, room: BodyRoom): Promise<HttpAnswer> {
    assert(this.#awaited === undefined, 'a connection has one request at a time');
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(this.#closed);
        return;
      }
      this.#awaited = { room, resolve, reject };
      this.#socket.ref();
      this.#socket.write(request);
    });
  }

  /** Ends it at once, and the request that is under way with this error. Idempotent. */
  destroy(error: Error): void {
    if (this.#closed) return;
    this.#closed = error;
    this.#socket.destroy();
    this.#awaited?.reject(error);
    this.#awaited = undefined;
  }

  /** For what comes next. */
  #room(): Buffer {
    const coming = this.#coming;
    return coming ? coming.body.subarray(coming.filledBytes) : this.#head.subarray(this.#headBytes);
  }

  #came(count: number): boolean {
    if (this.#closed) return false;
    try {
      if (this.#coming) this.#coming.filledBytes += count;
      else this.#readHead(count);
      this.#endIfWhole();
    } catch (error) {
      this.destroy(error as Error);
    }
    return this.#closed === undefined;
  }

  #readHead(count: number): void {
    const from = Math.max(0, this.#headBytes - HEAD_END.length + 1);
    this.#headBytes += count;
    const end = this.#head.subarray(0, this.#headBytes).indexOf(HEAD_END, from, 'latin1');
    if (end < 0) {
      if (this.#headBytes === HEAD_BYTES) throw new Error('the head of its answer has no end');
      return;
    }
    if (!this.#awaited) throw new Error('it answered without a question');
    const head = this.#head.toString('latin1', 0, end + 2);
    const status = Number(STATUS.exec(head)?.[1]);
    const sizeBytes = Number(LENGTH.exec(head)?.[1]);
    if (Number.isNaN(status)) throw new Error('its answer is not HTTP/1.1');
    if (Number.isNaN(sizeBytes)) throw new Error(`it answered ${status}, not saying how long it is`);
    if (sizeBytes > this.#maxBodyBytes) throw new Error('its answer is longer than any');
    this.#closesAfter = CLOSES.test(head);
    const body = status === 200 ? this.#awaited.room(sizeBytes) : Buffer.allocUnsafe(sizeBytes);
    const rest = this.#head.subarray(end + HEAD_END.length, this.#headBytes);
    if (rest.length > sizeBytes) throw new Error('its answer is longer than it said');
    body.set(rest);
    this.#coming = { status, body, filledBytes: rest.length };
  }

  #endIfWhole(): void {
    const { coming, awaited } = { coming: this.#coming, awaited: this.#awaited };
    if (!coming || coming.filledBytes < coming.body.length) return;
    this.#coming = undefined;
    this.#awaited = undefined;
    this.#headBytes = 0;
    this.#isUsed = true;
    // Who waits for nothing does not keep a process alive.
    this.#socket.unref();
    if (this.#closesAfter) this.destroy(new Error('it wanted the connection closed'));
    awaited?.resolve({ status: coming.status, body: coming.body });
  }
}
