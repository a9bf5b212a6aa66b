import { createHash, createHmac, pbkdf2, randomBytes } from 'node:crypto';
import { promisify } from 'node:util';

const pbkdf2Async = promisify(pbkdf2);
/** PostgreSQL's own count. */
const ITERATION_COUNT = 4096;

/**
 * What PostgreSQL keeps of a password (RFC 5803), so that statements and their logs never have the password
 * itself. For passwords of printable ASCII, which SASLprep leaves as they are.
 */
export async function scramVerifier(password: string, salt: Buffer = randomBytes(16)): Promise<string> {
  if (!/^[\x21-\x7e]+$/.test(password)) throw new Error('assertion failed: a generated password is ASCII');
  const salted = await pbkdf2Async(password, salt, ITERATION_COUNT, 32, 'sha256');
  const hmac = (text: string): Buffer => createHmac('sha256', salted).update(text).digest();
  const storedKey = createHash('sha256').update(hmac('Client Key')).digest('base64');
  const serverKey = hmac('Server Key').toString('base64');
  return `SCRAM-SHA-256$${ITERATION_COUNT}:${salt.toString('base64')}$${storedKey}:${serverKey}`;
}
