import { connect } from 'node:net';
import { VarveError } from '../../core/errors.ts';

const ANSWER_TIMEOUT_MS = 2000;
const MAX_ANSWER_BYTES = 1 << 20;

/**
 * Sends one command to a running HAProxy and returns what it answers.
 * @throws PROXY_UNREACHABLE when nobody answers there
 * @see https://docs.haproxy.org/2.6/management.html#9.3
 */
export async function askHaproxy(socketPath: string, command: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    const fail = (why: string): void => {
      socket.destroy();
      reject(new VarveError('PROXY_UNREACHABLE', `HAProxy did not answer at ${socketPath}: ${why}`));
    };
    let answer = '';
    const socket = connect(socketPath, () => socket.write(`${command}\n`));
    socket.setTimeout(ANSWER_TIMEOUT_MS, () => fail('no answer in time'));
    socket.setEncoding('utf8');
    socket.on('data', (text: string) => {
      answer += text;
      if (answer.length > MAX_ANSWER_BYTES) fail('an endless answer');
    });
    socket.once('error', (error) => fail(error.message));
    socket.once('end', () => resolve(answer.trim()));
  });
}
