// MurmurHash3 (x86, 32 bits), which shards are chosen by, and XXH64, which series are found by.

export function murmur3(from: usize, length: u32, seed: u32): u32 {
  let hash = seed;
  const end = from + (length & ~3);
  let p = from;
  for (; p < end; p += 4) hash = rotl<u32>(hash ^ scramble(load<u32>(p)), 13) * 5 + 0xe6546b64;
  let rest: u32 = 0;
  for (let i = length & 3; i > 0; i--) rest = (rest << 8) | load<u8>(p + i - 1);
  hash ^= scramble(rest);
  hash ^= length;
  hash = (hash ^ (hash >> 16)) * 0x85ebca6b;
  hash = (hash ^ (hash >> 13)) * 0xc2b2ae35;
  return hash ^ (hash >> 16);
}

@inline
function scramble(word: u32): u32 {
  return rotl<u32>(word * 0xcc9e2d51, 15) * 0x1b873593;
}

const PRIME_1: u64 = 0x9e3779b185ebca87;
const PRIME_2: u64 = 0xc2b2ae3d27d4eb4f;
const PRIME_3: u64 = 0x165667b19e3779f9;
const PRIME_4: u64 = 0x85ebca77c2b2ae63;
const PRIME_5: u64 = 0x27d4eb2f165667c5;

@inline
function round(lane: u64, word: u64): u64 {
  return rotl<u64>(lane + word * PRIME_2, 31) * PRIME_1;
}

@inline
function merge(hash: u64, lane: u64): u64 {
  return (hash ^ round(0, lane)) * PRIME_1 + PRIME_4;
}

export function xxh64(from: usize, length: u32, seed: u64): u64 {
  let p = from;
  const end = from + length;
  let hash: u64;
  if (length >= 32) {
    let one = seed + PRIME_1 + PRIME_2;
    let two = seed + PRIME_2;
    let three = seed;
    let four = seed - PRIME_1;
    do {
      one = round(one, load<u64>(p));
      two = round(two, load<u64>(p, 8));
      three = round(three, load<u64>(p, 16));
      four = round(four, load<u64>(p, 24));
      p += 32;
    } while (p + 32 <= end);
    hash = rotl<u64>(one, 1) + rotl<u64>(two, 7) + rotl<u64>(three, 12) + rotl<u64>(four, 18);
    hash = merge(merge(merge(merge(hash, one), two), three), four);
  } else {
    hash = seed + PRIME_5;
  }
  hash += length;
  for (; p + 8 <= end; p += 8) hash = rotl<u64>(hash ^ round(0, load<u64>(p)), 27) * PRIME_1 + PRIME_4;
  if (p + 4 <= end) {
    hash = rotl<u64>(hash ^ (<u64>load<u32>(p) * PRIME_1), 23) * PRIME_2 + PRIME_3;
    p += 4;
  }
  for (; p < end; p++) hash = rotl<u64>(hash ^ (<u64>load<u8>(p) * PRIME_5), 11) * PRIME_1;
  hash = (hash ^ (hash >> 33)) * PRIME_2;
  hash = (hash ^ (hash >> 29)) * PRIME_3;
  return hash ^ (hash >> 32);
}
