/** Reflected polynomial of CRC-32C (Castagnoli). */
const POLYNOMIAL = 0x82f6_3b78;
const SLICES = 8;
const TABLES = makeTables();

/**
 * CRC-32C, which streamed remote read has behind every frame's length, and PostgreSQL in its control file. Eight bytes a
 * step: zlib has only the other polynomial.
 */
export function crc32c(bytes: Uint8Array): number {
  const [t0, t1, t2, t3, t4, t5, t6, t7] = TABLES as unknown as readonly [
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
    Uint32Array,
  ];
  const at = (table: Uint32Array, index: number): number => table[index & 0xff] as number;
  let crc = 0xffff_ffff;
  let i = 0;
  for (const end = bytes.length - 7; i < end; i += 8) {
    const low =
      crc ^
      ((bytes[i] as number) |
        ((bytes[i + 1] as number) << 8) |
        ((bytes[i + 2] as number) << 16) |
        ((bytes[i + 3] as number) << 24));
    crc =
      at(t7, low) ^
      at(t6, low >>> 8) ^
      at(t5, low >>> 16) ^
      at(t4, low >>> 24) ^
      at(t3, bytes[i + 4] as number) ^
      at(t2, bytes[i + 5] as number) ^
      at(t1, bytes[i + 6] as number) ^
      at(t0, bytes[i + 7] as number);
  }
  for (; i < bytes.length; i += 1) crc = at(t0, crc ^ (bytes[i] as number)) ^ (crc >>> 8);
  return (crc ^ 0xffff_ffff) >>> 0;
}

function makeTables(): Uint32Array[] {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ POLYNOMIAL : crc >>> 1;
    return crc;
  });
  const tables = [first];
  // Each table is the one before with one more zero byte behind.
  for (let last = first; tables.length < SLICES; tables.push(last)) {
    last = last.map((crc) => (crc >>> 8) ^ (first[crc & 0xff] as number));
  }
  return tables;
}
