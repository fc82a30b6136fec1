/**
 * Makes the socket of each accepted connection with a lane to read into: Node's server makes one that reads into
 * buffers of its own, so that a relayed connection would need a second (`reopen`).
 * Invariant: until its lane is joined to another socket, it is a stream like any other.
 */
import net, { type Server, type Socket } from 'node:net'
import { Lane } from './lane.js'

/** What Node's server calls with each connection; it makes a socket itself only where this is not replaced. */
interface Listening {
  onconnection: (status: number, handle: unknown) => void
}

const lanes = new WeakMap<Socket, Lane>()

/** The lane that an accepted socket reads into, if it has one. */
export function laneOf(socket: Socket): Lane | undefined {
  return lanes.get(socket)
}

/**
 * Of the whole gate, those that have not said yet what they want among them: twice what may be relayed (`budgets.ts`), so
 * that one too many is denied there, with a reason, long before it is reset here.
 */
const maxOpen = 16_384
let open = 0

/**
 * Before the server listens. Each socket is handed over paused, with `allowHalfOpen`.
 * @param most connections at a time; further ones are reset.
 */
export function onAccepted(server: Server, take: (socket: Socket) => void, most = maxOpen): void {
  server.on('connection', take)
  server.once('listening', () => {
    const { _handle: listening } = server as unknown as { _handle: Listening | null }
    if (listening === null) return
    listening.onconnection = (status, handle) => {
      // Out of descriptors for a moment: the connection waits in the backlog.
      if (status !== 0) return
      const socket = accept(handle)
      open++
      socket.once('close', () => open--)
      if (open <= most) take(socket)
      else socket.resetAndDestroy()
    }
  })
}

function accept(handle: unknown): Socket {
  const lane = new Lane()
  const socket = new net.Socket({
    handle,
    onread: lane.onread,
    allowHalfOpen: true,
    pauseOnCreate: true,
  } as net.SocketConstructorOpts)
  lane.readFrom(socket)
  lanes.set(socket, lane)
  return socket
}
