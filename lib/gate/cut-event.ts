/**
 * How a dialled connection is cut whose bytes go through TLS of ours: told on its socket, with the reason, and whoever
 * listens closes it at once. Closing the socket itself under TLS crashes Node where a write of TLS's is under way.
 */
export const cutEvent = 'cut'
