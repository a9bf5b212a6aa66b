import type { Clock } from '../core/clock.ts';
import { messageOf } from '../core/errors.ts';
import type { Log } from './log.ts';
import type { RunningPostgres } from './postgres-service.ts';

export interface CertificateUpkeepDeps {
  readonly clock: Clock;
  readonly log: Log;
  /** As of now; undefined while there is none. */
  readonly postgres: () => RunningPostgres | undefined;
  /** Names under which clients may come in through other members, as of now. */
  readonly peers: () => readonly string[];
  /** The server shows another certificate from now on. */
  readonly onRenewed: () => Promise<void>;
}

const LOOK_EVERY_MS = 2_000;
/** A certificate is made anew when a third of its two years is left. */
const RENEW_EVERY_MS = 3_600_000;

/**
 * Keeps the certificate of the node's own server good while it runs: for its time, and for the names of the members
 * that have come. The server takes it by a reload; sessions go on. Until the signal fires.
 */
export async function keepCertificates(deps: CertificateUpkeepDeps, signal: AbortSignal): Promise<void> {
  const { clock, log, postgres, peers, onRenewed } = deps;
  let lookedFor = '';
  let lookedAtMs = clock.monotonicMs();
  while (!signal.aborted) {
    await clock.sleep(LOOK_EVERY_MS, signal).catch(() => {});
    const running = postgres();
    const names = [...peers()].toSorted();
    const wanted = names.join(' ');
    const isDue = wanted !== lookedFor || clock.monotonicMs() - lookedAtMs >= RENEW_EVERY_MS;
    if (signal.aborted || !running?.certificates || !isDue) continue;
    try {
      const renewed = await running.certificates.renew(names);
      [lookedFor, lookedAtMs] = [wanted, clock.monotonicMs()];
      if (!renewed) continue;
      running.own?.reload();
      log.info({ names }, "the server's certificate was made anew");
      await onRenewed();
    } catch (error) {
      // At the next look it is tried again.
      log.warn({ error: messageOf(error) }, "the server's certificate could not be made anew");
    }
  }
}
