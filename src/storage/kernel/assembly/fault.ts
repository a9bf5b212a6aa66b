// Results below zero say what is wrong; `kernel-fault.ts` gives them names and words.
export const TRUNCATED: i32 = -1;
export const BAD_HEADER: i32 = -2;
export const BAD_WIDTH: i32 = -3;
export const TOO_LARGE: i32 = -4;
export const BAD_VARINT: i32 = -5;
export const BAD_COUNT: i32 = -6;
export const TRAILING_BYTES: i32 = -7;
export const BAD_OFFSET: i32 = -8;
export const NOT_ASCENDING: i32 = -9;
export const BAD_WIRE_TYPE: i32 = -10;
export const BAD_TAG: i32 = -11;
export const OUT_OF_MEMORY: i32 = -12;
export const BAD_REFERENCE: i32 = -13;
export const DUPLICATE_LABEL: i32 = -14;
export const EMPTY_LABEL_NAME: i32 = -15;
export const NO_LABELS: i32 = -16;
export const BAD_UTF8: i32 = -17;
