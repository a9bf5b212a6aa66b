import { createHash, createHmac, pbkdf2Sync, randomBytes, timingSafeEqual } from 'node:crypto';

/**
 * The server's half of SCRAM-SHA-256 (RFC 5802, RFC 7677) without channel binding. Both sides prove that they
 * know the secret, and neither shows it. The secret is random, so one iteration is as good as many.
 */
const ITERATION_COUNT = 1;

export class ScramServer {
  readonly #secret: string;
  #clientFirstBare = '';
  #serverFirst = '';
  #gs2Header = '';
  readonly #salt = randomBytes(16);

  constructor(secret: string) {
    this.#secret = secret;
  }

  /** Takes the client's first message and returns the server's; undefined when it is malformed. */
  first(clientFirst: string): string | undefined {
    const match = /^([ny],[^,]*,)((?:[^,]*,)?n=[^,]*,r=([^,]+).*)$/.exec(clientFirst);
    if (!match?.[1] || !match[2] || !match[3]) return undefined;
    this.#gs2Header = match[1];
    this.#clientFirstBare = match[2];
    const nonce = match[3] + randomBytes(18).toString('base64');
    this.#serverFirst = `r=${nonce},s=${this.#salt.toString('base64')},i=${ITERATION_COUNT}`;
    return this.#serverFirst;
  }

  /** Takes the client's final message; returns the server's proof, or undefined when the client's is wrong. */
  final(clientFinal: string): string | undefined {
    const match = /^(c=([^,]+),r=([^,]+)),p=([^,]+)$/.exec(clientFinal);
    const nonce = /^r=([^,]+)/.exec(this.#serverFirst)?.[1];
    if (!match || match[3] !== nonce) return undefined;
    if (Buffer.from(match[2] ?? '', 'base64').toString() !== this.#gs2Header) return undefined;
    const salted = pbkdf2Sync(this.#secret, this.#salt, ITERATION_COUNT, 32, 'sha256');
    const storedKey = createHash('sha256').update(hmac(salted, 'Client Key')).digest();
    const authMessage = `${this.#clientFirstBare},${this.#serverFirst},${match[1]}`;
    const proof = Buffer.from(match[4] ?? '', 'base64');
    if (proof.length !== 32) return undefined;
    const clientKey = xor(proof, hmac(storedKey, authMessage));
    if (!timingSafeEqual(createHash('sha256').update(clientKey).digest(), storedKey)) return undefined;
    return `v=${hmac(hmac(salted, 'Server Key'), authMessage).toString('base64')}`;
  }
}

function hmac(key: Buffer, text: string): Buffer {
  return createHmac('sha256', key).update(text).digest();
}

function xor(a: Buffer, b: Buffer): Buffer {
  return Buffer.from(a.map((byte, i) => byte ^ (b[i] ?? 0)));
}
