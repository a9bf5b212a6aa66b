/** Below the engine's folder: what is there only saves time. */
export const IMAGE_FOLDER = 'image';
