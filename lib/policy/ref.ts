/** Whether a policy is named by its file: a bundled one has no slash and no ending. */
export const isPath = (ref: string): boolean => ref.includes('/') || /\.(?:ya?ml|json)$/.test(ref)
