/**
 * The folder of the package: from the sources, from what they are compiled to, and from the bundle alike, because each
 * has its files two folders deep.
 */
export const PACKAGE_ROOT = new URL('../../', import.meta.url);
