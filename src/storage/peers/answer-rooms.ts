import type { AnswerRoom } from './peer-transport.ts';

/** Memory for answers that are done with soon, and is used again: new memory for each costs more than to fill it. */
export class AnswerRooms {
  readonly #free: Buffer[] = [];

  /** What is put into the room is good until `work` has ended; nobody may write there any more by then. */
  async use<T>(work: (room: AnswerRoom) => Promise<T>): Promise<T> {
    let memory = this.#free.pop() ?? Buffer.alloc(0);
    try {
      return await work((sizeBytes) => {
        // Somewhat more, so that it seldom grows again.
        if (memory.length < sizeBytes) memory = Buffer.allocUnsafeSlow(Math.ceil(sizeBytes * 1.25));
        return memory.subarray(0, sizeBytes);
      });
    } finally {
      this.#free.push(memory);
    }
  }
}
