/** What a kernel found wrong with its input. The numbers are those of `assembly/fault.ts`. */
const FAULTS = {
  TRUNCATED: [-1, 'it ends too early'],
  BAD_HEADER: [-2, 'its head is not one that this version writes'],
  BAD_WIDTH: [-3, 'a bit width is out of range'],
  TOO_LARGE: [-4, 'it holds more than the limit allows'],
  BAD_VARINT: [-5, 'a variable-length integer is longer than 64 bits'],
  BAD_COUNT: [-6, 'a count is out of range'],
  TRAILING_BYTES: [-7, 'bytes follow its end'],
  BAD_OFFSET: [-8, 'a position points outside of it'],
  NOT_ASCENDING: [-9, 'its timestamps do not ascend'],
  BAD_WIRE_TYPE: [-10, 'a protobuf field has the wrong wire type'],
  BAD_TAG: [-11, 'a protobuf field has number 0 or an unknown wire type'],
  OUT_OF_MEMORY: [-12, 'the memory limit is reached'],
  BAD_REFERENCE: [-13, 'a series reference is unknown'],
  DUPLICATE_LABEL: [-14, 'a label name occurs twice'],
  EMPTY_LABEL_NAME: [-15, 'a label name is empty'],
  NO_LABELS: [-16, 'no label has a value'],
  BAD_UTF8: [-17, 'a label is not valid UTF-8'],
  NO_SAMPLES: [-18, 'a series has no samples'],
  OUT_OF_SEQUENCE: [-19, 'it builds upon a batch that is not there'],
} as const;

export type KernelFaultName = keyof typeof FAULTS;

/** The input of a kernel is not what it must be: the caller knows the file or request, and says so. */
export class KernelFault extends Error {
  override readonly name = 'KernelFault';
  readonly fault: KernelFaultName;
  /** The result with which the kernel reports it. */
  readonly result: number;

  constructor(fault: KernelFaultName) {
    super(FAULTS[fault][1]);
    this.fault = fault;
    this.result = FAULTS[fault][0];
  }
}

/**
 * Returns the result of a kernel if it is not negative.
 * @throws KernelFault otherwise
 */
export function checked(result: number): number {
  if (result >= 0) return result;
  for (const name of Object.keys(FAULTS) as KernelFaultName[]) {
    if (FAULTS[name][0] === result) throw new KernelFault(name);
  }
  throw new Error(`assertion failed: a kernel returned ${result}`);
}
