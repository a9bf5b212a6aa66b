import { pino, type Logger } from 'pino';

/** One JSON object a line. `path`: appended to; otherwise standard output. Written at once, so a crash loses none. */
export function logger(options: {
  readonly level: string;
  readonly path?: string;
  readonly node?: string;
}): Logger {
  const target = pino.destination({ dest: options.path ?? 1, sync: true, mkdir: true, mode: 0o600 });
  return pino(
    {
      level: options.level,
      base: { pid: process.pid, ...(options.node === undefined ? {} : { node: options.node }) },
      timestamp: pino.stdTimeFunctions.isoTime,
      serializers: { error: pino.stdSerializers.err },
    },
    target,
  );
}
