import { test } from 'vitest';
import { bootstrap, GroupStage } from '../../../test/group-nodes.ts';
import { RunEvents } from '../../run/events.ts';
test('profile', async () => {
  await using stage = await GroupStage.open(3);
  for (const cluster of ['a', 'b']) {
    const nodes = [0, 1, 2].map((i) => stage.node(i, { cluster }));
    const t0 = Date.now();
    const lines: string[] = [];
    await Promise.all(
      nodes.map((one) => {
        const events = new RunEvents();
        events.subscribe((e) => {
          if (e.step !== '')
            lines.push(
              `${e.atMs - t0} ${e.node} ${e.step} ${e.state} ${e.waitingFor ?? ''} ${e.detail ?? ''}`,
            );
        });
        return bootstrap(one, { events });
      }),
    );
    console.log(lines.filter((l) => !/checking|skipped/.test(l)).join('\n'), Date.now() - t0);
    for (const one of nodes) await one[Symbol.asyncDispose]();
    await stage.clean();
  }
});
