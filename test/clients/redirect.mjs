/**
 * Loaded before a client: stands in for the kernel's redirect. Every connection to port 443 goes to the
 * gate's port on loopback; the client itself is unchanged.
 */
import net from 'node:net'

const port = Number(process.env.GATE_PORT)
const connect = net.Socket.prototype.connect
net.Socket.prototype.connect = function (...args) {
  const [options, listener] = Array.isArray(args[0]) ? args[0] : args
  if (typeof options !== 'object' || Number(options.port) !== 443) {
    throw new Error('these clients connect to port 443 only')
  }
  return connect.call(this, { ...options, host: '127.0.0.1', port }, listener ?? undefined)
}
