/** A database on a data node's server. */
export interface Target {
  readonly host: string;
  readonly port: number;
  readonly database: string;
}

export function describeServer(target: Omit<Target, 'database'>): string {
  return target.host.includes(':') ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`;
}

export function describeTarget(target: Target): string {
  return `database "${target.database}" on ${describeServer(target)}`;
}
