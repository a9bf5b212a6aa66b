/**
 * Works on all items, so many at the same time. After a failure none is begun any more, and it is thrown when nothing is
 * under way: whoever catches it has all for itself again.
 */
export async function eachAtOnce<T>(
  items: Iterable<T>,
  count: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  const next = items[Symbol.iterator]();
  let failure: { readonly reason: unknown } | undefined;
  const worker = async (): Promise<void> => {
    for (let item = next.next(); !item.done && !failure; item = next.next()) {
      try {
        await work(item.value);
      } catch (reason) {
        failure ??= { reason };
      }
    }
  };
  await Promise.all(Array.from({ length: count }, worker));
  if (failure) throw failure.reason;
}
