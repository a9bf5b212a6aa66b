/** What one node asks another. Times are nanoseconds since the Unix epoch. */
export type PeerRequest =
  | {
      readonly kind: 'shards';
      readonly namespace: string;
      readonly shards: readonly number[];
      /**
       * Of who is to have the shards: the version of the placement that it knows. Who knows an older one still takes writes
       * that pass it by.
       */
      readonly placement?: number;
      readonly startNs: bigint;
      readonly endNs: bigint;
    }
  /** Its files come with it when they have no more bytes than `inlineBytes` together. */
  | ({ readonly kind: 'fileset'; readonly inlineBytes: number } & PeerFileset)
  | ({
      readonly kind: 'file';
      readonly file: 'data' | 'index';
      readonly offset: number;
      readonly lengthBytes: number;
    } & PeerFileset)
  | ({
      readonly kind: 'series';
      readonly after: Uint8Array | undefined;
      readonly hasColumns: boolean;
      readonly maxBytes: number;
    } & PeerBlockId)
  | ({ readonly kind: 'columns'; readonly ids: readonly Uint8Array[] } & PeerBlockId);

export interface PeerBlockId {
  readonly namespace: string;
  readonly shard: number;
  readonly blockStartNs: bigint;
}

export interface PeerFileset extends PeerBlockId {
  readonly volume: number;
}

/** Memory for an answer of this size. */
export type AnswerRoom = (sizeBytes: number) => Buffer;

/**
 * Carries requests to other nodes, by their names. Answers are bytes that `PeerServer.answer` gave, whole.
 */
export interface PeerTransport {
  /**
   * @param room where the answer may be put, instead of new memory; asked for at most once a try, and left alone when the
   *   signal is aborted
   * @throws PEER_UNAVAILABLE when the node cannot be reached or is not what it should be, and the error of the other
   *   side with its code; the signal's reason when it is aborted
   */
  call(node: string, request: PeerRequest, signal: AbortSignal, room?: AnswerRoom): Promise<Uint8Array>;
}
