import { randomBytes } from 'node:crypto';
import { open, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { crc32c } from '../core/crc32c.ts';

/**
 * What tells one cluster's files from another's. It stands in two places, in the byte order of the machine:
 *
 *     global/pg_control     bytes 0 to 7; further on, a CRC-32C of all that is before it
 *     pg_wal/SEGMENT        bytes 24 to 31 of the header of a segment's first page, if the flag 0x0002 (long header)
 *                           is set in the 16 bits at 2; no checksum covers it
 *
 * (PostgreSQL: src/include/catalog/pg_control.h, access/xlog_internal.h.)
 */
const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

/** Where the checksum stands depends on the version: behind the fields, of which there are between so many bytes. */
const FIELDS_BYTES = { least: 200, most: 504 } as const;
const CHECKSUM_BYTES = 4;

const WAL_HEADER_BYTES = 40;
const WAL_FLAGS_AT = 2;
const WAL_LONG_HEADER = 0x0002;
const WAL_IDENTIFIER_AT = 24;

/** Written by initdb. */
export async function systemIdentifier(dataDir: string): Promise<string> {
  const control = await readFile(controlFile(dataDir));
  return String(LITTLE_ENDIAN ? control.readBigUInt64LE(0) : control.readBigUInt64BE(0));
}

/**
 * Makes a copy of a stopped cluster a cluster of its own. Nothing may run on it; whether it was done right, the next
 * start tells, which compares both places.
 * @throws when the files are not as they are known to be; nothing was changed then
 */
export async function renewSystemIdentifier(dataDir: string): Promise<void> {
  if (!LITTLE_ENDIAN) throw new Error('system identifiers are written on little-endian machines only');
  const control = await readFile(controlFile(dataDir));
  const checksumAt = checksumOffset(control);
  const former = control.readBigUInt64LE(0);
  const own = newIdentifier();
  const segments = await ownSegments(dataDir, former);
  for (const path of segments) {
    await using file = await open(path, 'r+');
    await file.write(bytesOf(own), 0, 8, WAL_IDENTIFIER_AT);
  }
  control.writeBigUInt64LE(own, 0);
  control.writeUInt32LE(crc32c(control.subarray(0, checksumAt)), checksumAt);
  await writeFile(controlFile(dataDir), control);
}

function controlFile(dataDir: string): string {
  return join(dataDir, 'global', 'pg_control');
}

/** The one place where there is the checksum of everything before it. */
function checksumOffset(control: Buffer): number {
  for (let at = FIELDS_BYTES.least; at <= FIELDS_BYTES.most; at += CHECKSUM_BYTES) {
    if (crc32c(control.subarray(0, at)) === control.readUInt32LE(at)) return at;
  }
  throw new Error('pg_control is not as it is known to be');
}

async function ownSegments(dataDir: string, identifier: bigint): Promise<string[]> {
  const folder = join(dataDir, 'pg_wal');
  const names = (await readdir(folder)).filter((name) => /^[\dA-F]{24}$/.test(name));
  for (const name of names) {
    await using file = await open(join(folder, name), 'r');
    const { buffer } = await file.read(Buffer.alloc(WAL_HEADER_BYTES), 0, WAL_HEADER_BYTES, 0);
    const isLong = (buffer.readUInt16LE(WAL_FLAGS_AT) & WAL_LONG_HEADER) !== 0;
    if (!isLong || buffer.readBigUInt64LE(WAL_IDENTIFIER_AT) !== identifier) {
      throw new Error(`WAL segment ${name} is not as it is known to be`);
    }
  }
  if (names.length === 0) throw new Error('there is no WAL');
  return names.map((name) => join(folder, name));
}

/** As initdb draws it: the seconds since 1970 in the upper half, something by chance in the lower. */
function newIdentifier(): bigint {
  return (BigInt(Math.floor(Date.now() / 1000)) << 32n) | BigInt(randomBytes(4).readUInt32LE(0));
}

function bytesOf(identifier: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(identifier);
  return bytes;
}
