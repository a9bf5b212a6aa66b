import { KernelFault } from '../kernel/kernel-fault.ts';

/** Goes over the fields of a message without making anything. @throws KernelFault */
export class FieldReader {
  tag = 0;
  /** Of the field, with its tag. */
  start = 0;
  content = 0;
  end = 0;
  #bytes: Uint8Array = new Uint8Array(0);
  #stop = 0;

  /** May be used again and again. */
  over(bytes: Uint8Array, start: number, stop: number): this {
    this.#bytes = bytes;
    this.end = start;
    this.#stop = stop;
    return this;
  }

  next(): boolean {
    if (this.end >= this.#stop) return false;
    this.start = this.end;
    this.content = this.start;
    this.tag = this.#number();
    switch (this.tag & 7) {
      case 0:
        this.end = this.content;
        this.#skipNumber();
        break;
      case 1:
        this.end = this.content + 8;
        break;
      case 2:
        this.end = this.#number();
        this.end += this.content;
        break;
      case 5:
        this.end = this.content + 4;
        break;
      default:
        throw new KernelFault('BAD_TAG');
    }
    if (this.end > this.#stop) throw new KernelFault('TRUNCATED');
    return true;
  }

  /** A length or a tag: 31 bits. Moves `content` behind it. */
  #number(): number {
    let value = 0;
    for (let shift = 0; shift < 35; shift += 7) {
      if (this.content >= this.#stop) throw new KernelFault('TRUNCATED');
      const byte = this.#bytes[this.content++] as number;
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
    throw new KernelFault('BAD_VARINT');
  }

  #skipNumber(): void {
    for (let bytes = 0; ; bytes++) {
      if (bytes === 10) throw new KernelFault('BAD_VARINT');
      if (this.end >= this.#stop) throw new KernelFault('TRUNCATED');
      if ((this.#bytes[this.end++] as number) < 0x80) return;
    }
  }
}
