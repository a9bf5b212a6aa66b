import { quoteIdent } from '../../postgres/sql.ts';

/**
 * So long nothing may come back over a connection between two members; then each end gives it up by itself. Left to the
 * defaults, a subscriber that was cut off waits for TCP's next repetition, as long as the cut has lasted, and then for
 * its former walsender, which holds the slot for a minute. The kernels answer, however busy the servers are; one that
 * takes nothing for as long is given up, too, and comes again.
 */
const DEAD_AFTER_MS = 8_000;
/** Of a connection that has nothing to say: two questions that nobody answers. */
const IDLE_S = 4;
const QUESTION_S = 2;
const QUESTIONS = 2;

/** For libpq, on the subscriber. */
export const SUBSCRIBER_GIVES_UP: Readonly<Record<string, string>> = {
  keepalives_idle: String(IDLE_S),
  keepalives_interval: String(QUESTION_S),
  keepalives_count: String(QUESTIONS),
  tcp_user_timeout: String(DEAD_AFTER_MS),
};

/**
 * For the publisher: settings of the role that members log in as, because walsenders of logical replication take none
 * from the subscription. Sessions of clients are not concerned.
 */
export function publisherGivesUp(role: string): string {
  return Object.entries({
    tcp_keepalives_idle: IDLE_S,
    tcp_keepalives_interval: QUESTION_S,
    tcp_keepalives_count: QUESTIONS,
    tcp_user_timeout: DEAD_AFTER_MS,
  })
    .map(([name, value]) => `alter role ${quoteIdent(role)} set ${name} = ${value}`)
    .join('; ');
}
