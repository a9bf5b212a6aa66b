/** Below the engine's folder. */
export const LOG_FOLDER = 'log';
