/**
 * Settings of a superuser's session that belongs to a daemon: it is let into databases that are closed to clients
 * (`bootstrap/closed-database.ts`).
 */
export const DAEMON_SESSION: Readonly<Record<string, string>> = { 'varve_group.daemon': 'on' };
