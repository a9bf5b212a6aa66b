export const BOOTSTRAP_PATH = '/api/bootstrap';

/** What operators do with a storage engine; of a node that stands alone also what backups read. */
export function isOperation(path = ''): boolean {
  return [BOOTSTRAP_PATH, '/restore/', '/peers/'].some((prefix) => path.startsWith(prefix));
}
