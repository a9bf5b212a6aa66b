import { createHash } from 'node:crypto';

/** One member of the group as the proxies see it. */
export interface ProxyTarget {
  readonly node: string;
  readonly host: string;
  /** Of its PgBouncer, or of PostgreSQL itself where it has none. */
  readonly port: number;
}

export interface HaproxyView {
  /** Where clients come in. */
  readonly bindHost: string;
  readonly writePort: number;
  readonly readPort: number;
  /** Undefined while there is none: the write port then closes connections at once. */
  readonly master: ProxyTarget | undefined;
  /** Those that answer reads; the master among them only when it is alone. */
  readonly readers: readonly ProxyTarget[];
  /** For questions and orders to the running HAProxy. */
  readonly socketPath: string;
  readonly maxConnections: number;
}

/** What HAProxy calls the two ways in. */
export const WRITE_BACKEND = 'write';
export const READ_BACKEND = 'read';

/** In HAProxy's environment, so that it can be asked which configuration it runs. */
export const CONFIG_MARK = 'VARVE_CONFIG';

/**
 * The whole configuration file, and the mark in it. The write port leads to the write master only, and never to
 * anybody else: no server, no connection. Equal views give equal text.
 */
export function haproxyConfig(view: HaproxyView): { readonly text: string; readonly mark: string } {
  const body = [
    ...globalLines(view),
    ...DEFAULTS,
    ...frontend(WRITE_BACKEND, view.bindHost, view.writePort),
    ...frontend(READ_BACKEND, view.bindHost, view.readPort),
    `backend ${WRITE_BACKEND}`,
    ...(view.master ? [serverLine(view.master)] : []),
    '',
    `backend ${READ_BACKEND}`,
    '    balance leastconn',
    ...view.readers.map(serverLine),
    '',
  ].join('\n');
  const mark = createHash('sha256').update(body).digest('hex').slice(0, 16);
  return { text: `${HEADER}\n${body.replace(CONFIG_MARK, `${CONFIG_MARK} ${mark}`)}`, mark };
}

const HEADER = '# Written by Varve after each change of the group. Edits are lost.';

function globalLines({ socketPath, maxConnections }: HaproxyView): string[] {
  return [
    'global',
    `    stats socket ${quoted(socketPath)} mode 600 level admin expose-fd listeners`,
    `    maxconn ${maxConnections}`,
    // A worker that was replaced keeps the connections that it has; not for ever.
    '    hard-stop-after 1h',
    `    setenv ${CONFIG_MARK}`,
    '',
  ];
}

// A client that waits for its statement sends nothing for hours, and so does the server: what is dead is found by
// TCP's own probes.
const DEFAULTS = [
  'defaults',
  '    mode tcp',
  '    option redispatch',
  '    option clitcpka',
  '    option srvtcpka',
  '    retries 2',
  '    timeout connect 3s',
  '    timeout client 12h',
  '    timeout server 12h',
  '    timeout check 2s',
  '',
];

function frontend(name: string, host: string, port: number): string[] {
  return [`frontend ${name}-port`, `    bind ${address(host, port)}`, `    default_backend ${name}`, ''];
}

function serverLine({ node, host, port }: ProxyTarget): string {
  return `    server ${node} ${address(host, port)} check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions`;
}

function address(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}

/** HAProxy takes a word in single quotes as it is. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
