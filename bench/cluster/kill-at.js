/**
 * Loaded into a node before its own program: `node --import kill-at.js?step=…&role=…&afterMs=…&flag=…&pidFile=… …`.
 * The process dies by SIGKILL when it begins that step of its bring-up or of the group's bootstrap in that role, or
 * so much later. Of several nodes only the first that comes there dies, and only once: it makes the file `flag`.
 * With `pidFile` its PostgreSQL and what else it has started die first, as when a machine fails.
 */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { RunEvents } from '../../dist/run/events.js';

const wanted = new URL(import.meta.url).searchParams;
const publish = Object.getOwnPropertyDescriptor(RunEvents.prototype, 'publish')?.value;
let role;

RunEvents.prototype.publish = function (event) {
  publish.call(this, event);
  const { step, state } = event;
  if (state !== 'running') return;
  if (step === 'create-group') role = 'leader';
  if (step === 'join-group') role = 'member';
  if (step !== wanted.get('step')) return;
  if (wanted.get('role') !== 'any' && wanted.get('role') !== role) return;
  try {
    closeSync(openSync(wanted.get('flag'), 'wx'));
  } catch {
    return;
  }
  const afterMs = Number(wanted.get('afterMs'));
  if (afterMs === 0) die();
  else setTimeout(die, afterMs);
};

function die() {
  const pidFile = wanted.get('pidFile');
  if (pidFile) {
    try {
      process.kill(Number(readFileSync(pidFile, 'utf8').split('\n')[0]), 'SIGKILL');
    } catch {
      // It has no server yet.
    }
    process.kill(-process.pid, 'SIGKILL');
  }
  process.kill(process.pid, 'SIGKILL');
}
