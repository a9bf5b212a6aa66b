import type { IncomingMessage } from 'node:http';
import { promisify } from 'node:util';
import { gunzip } from 'node:zlib';
import { hasCode } from '../../core/file-system.ts';
import { messageOf, VarveError } from '../../core/errors.ts';

/** Buffers for requests that come in several pieces; larger ones are not kept. */
const KEPT_COUNT = 8;
const KEPT_BYTES = 1024 * 1024;

export interface BodyLimits {
  /** Of one request, as it comes and when decompressed. */
  readonly maxBytes: number;
  /** Of all requests that are under way. */
  readonly maxWaitingBytes: number;
}

/**
 * Reads request bodies. A body is a view of the piece that came from the socket where it came in one, otherwise put
 * together in a buffer that is used again: `release` says that it may be.
 */
export class RequestBodies {
  readonly #limits: BodyLimits;
  readonly #free: Buffer[] = [];
  #waitingBytes = 0;

  constructor(limits: BodyLimits) {
    this.#limits = limits;
  }

  /** Of requests that are being read or worked on. */
  get waitingBytes(): number {
    return this.#waitingBytes;
  }

  /**
   * @throws BODY_TOO_LARGE, CANCELLED when the sender goes away first, STORAGE_OVERLOADED when too much waits already
   */
  read(request: IncomingMessage): Promise<Body> {
    const declared = Number(request.headers['content-length'] ?? 0);
    const tooMuch = declared > this.#limits.maxBytes;
    if (tooMuch || this.#waitingBytes + declared > this.#limits.maxWaitingBytes) {
      // Who sends all of it before listening is told nevertheless.
      request.resume();
      return Promise.reject(tooMuch ? tooLarge(this.#limits.maxBytes) : overloaded());
    }
    return new Promise((resolve, reject) =>
      new BodyReader(this, request, { resolve, reject }).start(declared),
    );
  }

  /** A body that may be compressed with gzip; the result is the caller's. @throws MEDIA_TYPE_UNSUPPORTED too */
  async readText(request: IncomingMessage): Promise<Buffer> {
    const encoding = request.headers['content-encoding'] ?? 'identity';
    if (encoding !== 'gzip' && encoding !== 'identity' && encoding !== '') {
      throw new VarveError(
        'MEDIA_TYPE_UNSUPPORTED',
        `Content-Encoding ${encoding.slice(0, 40)} is not known`,
        {
          hint: 'Send it plain or compressed with gzip.',
        },
      );
    }
    const body = await this.read(request);
    try {
      return encoding === 'gzip' ? await this.#inflate(body.bytes) : Buffer.from(body.bytes);
    } finally {
      body.release();
    }
  }

  async #inflate(bytes: Uint8Array): Promise<Buffer> {
    const { maxBytes } = this.#limits;
    try {
      return await promisify(gunzip)(bytes, { maxOutputLength: maxBytes });
    } catch (error) {
      if (hasCode(error, 'ERR_BUFFER_TOO_LARGE')) throw tooLarge(maxBytes);
      throw new VarveError('INVALID_ARGUMENT', `the body cannot be decompressed: ${messageOf(error)}`);
    }
  }

  /** @internal */
  count(bytes: number): void {
    this.#waitingBytes += bytes;
  }

  /** @internal */
  limitFault(sizeBytes: number): VarveError | undefined {
    if (sizeBytes > this.#limits.maxBytes) return tooLarge(this.#limits.maxBytes);
    return this.#waitingBytes > this.#limits.maxWaitingBytes ? overloaded() : undefined;
  }

  /** @internal */
  take(sizeBytes: number): Buffer {
    const at = this.#free.findIndex((buffer) => buffer.length >= sizeBytes);
    const [found] = at < 0 ? [] : this.#free.splice(at, 1);
    return found ?? Buffer.allocUnsafeSlow(Math.max(64 * 1024, 2 ** Math.ceil(Math.log2(sizeBytes))));
  }

  /** @internal */
  give(buffer: Buffer): void {
    if (buffer.length <= KEPT_BYTES && this.#free.length < KEPT_COUNT) this.#free.push(buffer);
  }
}

export interface Body {
  readonly bytes: Uint8Array;
  /** The bytes are not looked at any more. Once. */
  release(): void;
}

interface Settle {
  readonly resolve: (body: Body) => void;
  readonly reject: (error: VarveError) => void;
}

/** One body on its way. */
class BodyReader {
  readonly #bodies: RequestBodies;
  readonly #request: IncomingMessage;
  readonly #settle: Settle;
  #first: Buffer | undefined;
  #buffer: Buffer | undefined;
  #sizeBytes = 0;
  #isSettled = false;

  constructor(bodies: RequestBodies, request: IncomingMessage, settle: Settle) {
    this.#bodies = bodies;
    this.#request = request;
    this.#settle = settle;
  }

  start(declaredBytes: number): void {
    const request = this.#request;
    request.on('data', (chunk: Buffer) => this.#chunk(chunk, declaredBytes));
    request.once('end', () => this.#end());
    const gone = (): void => {
      // Every request closes in the end, and an error is dear: its stack is read.
      if (this.#isSettled) return;
      this.#fail(new VarveError('CANCELLED', 'the sender went away before its request was whole'));
    };
    request.once('error', gone);
    request.once('close', gone);
  }

  #chunk(chunk: Buffer, declaredBytes: number): void {
    if (this.#isSettled) return;
    const before = this.#sizeBytes;
    this.#sizeBytes += chunk.length;
    this.#bodies.count(chunk.length);
    const fault = this.#bodies.limitFault(this.#sizeBytes);
    if (fault) {
      this.#fail(fault);
      return;
    }
    if (before === 0) {
      this.#first = chunk;
      return;
    }
    if (!this.#buffer || this.#buffer.length < this.#sizeBytes) this.#grow(before, declaredBytes);
    this.#buffer?.set(chunk, before);
  }

  #grow(filledBytes: number, declaredBytes: number): void {
    const larger = this.#bodies.take(Math.max(this.#sizeBytes, declaredBytes));
    const filled = this.#buffer ?? this.#first;
    if (filled) larger.set(filled.subarray(0, filledBytes));
    if (this.#buffer) this.#bodies.give(this.#buffer);
    this.#buffer = larger;
  }

  #end(): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    const sizeBytes = this.#sizeBytes;
    const buffer = this.#buffer;
    this.#settle.resolve({
      bytes: buffer ? buffer.subarray(0, sizeBytes) : (this.#first ?? EMPTY),
      release: () => {
        this.#bodies.count(-sizeBytes);
        if (buffer) this.#bodies.give(buffer);
      },
    });
  }

  #fail(error: VarveError): void {
    if (this.#isSettled) return;
    this.#isSettled = true;
    this.#bodies.count(-this.#sizeBytes);
    this.#settle.reject(error);
  }
}

const EMPTY = Buffer.alloc(0);

function tooLarge(maxBytes: number): VarveError {
  return new VarveError('BODY_TOO_LARGE', `the body is larger than ${maxBytes} bytes`, {
    hint: 'Send smaller batches, or raise maxBodyMb.',
  });
}

function overloaded(): VarveError {
  return new VarveError('STORAGE_OVERLOADED', 'too many bytes of requests wait to be written', {
    hint: 'Repeat the request in a moment.',
  });
}
