/**
 * Entry of the gate's process: an unprivileged user, listeners by descriptor, orders over IPC.
 * Invariant: without its warden it ends at once, and any error it did not expect ends it too: the
 * jail's way out closes with it.
 */
import { errorMessage } from '../errors.js'
import { Gate } from './gate.js'
import type { FromGate, GatePolicy, PinRequest, ToGate } from './protocol.js'

/** A warden that does not answer a pin in this time has not set it. */
const pinTimeoutMs = 5000

let gate: Gate | undefined
let serial = 0
const pinsAsked = new Map<number, (ok: boolean) => void>()

function send(message: FromGate): Promise<void> {
  return new Promise((resolve, reject) => {
    if (process.send === undefined || !process.connected) {
      reject(new Error('no warden'))
      return
    }
    process.send(message, undefined, undefined, (error) => {
      if (error === null) resolve()
      else reject(error)
    })
  })
}

function fatal(error: unknown): void {
  const end = (): void => {
    process.exit(1)
  }
  send({ type: 'fatal', message: errorMessage(error) }).then(end, end)
  setTimeout(end, 500).unref()
}

async function pin(grant: string, name: string, pins: PinRequest['pins']): Promise<boolean> {
  const mine = ++serial
  const answered = new Promise<boolean>((resolve) => {
    const timer = setTimeout(() => {
      settle(false)
    }, pinTimeoutMs)
    const settle = (ok: boolean): void => {
      clearTimeout(timer)
      pinsAsked.delete(mine)
      resolve(ok)
    }
    pinsAsked.set(mine, settle)
  })
  await send({ type: 'pin', serial: mine, grant, name, pins })
  return await answered
}

async function start(message: Extract<ToGate, { type: 'start' }>): Promise<void> {
  const started = await Gate.start(message.config, {
    send: (decisions, dropped) => send({ type: 'decisions', decisions, dropped }),
    client: (serialOfLook, proto, port, name) => {
      // The channel is gone only when the warden is, and then the gate ends by itself.
      const asked = name === undefined ? {} : { name }
      send({ type: 'client', serial: serialOfLook, proto, port, ...asked }).catch(() => undefined)
    },
    pin,
  })
  const { gate: serving, ...ca } = started
  gate = serving
  await send({ type: 'ready', ...ca })
}

async function update(serialOfUpdate: number, policy: GatePolicy): Promise<void> {
  if (gate === undefined) throw new Error('update before start')
  const cut = await gate.update(policy)
  await send({ type: 'updated', serial: serialOfUpdate, cut })
}

async function handle(message: ToGate, socket: unknown): Promise<void> {
  switch (message.type) {
    case 'start':
      if (gate !== undefined) throw new Error('started twice')
      return await start(message)
    case 'update':
      return await update(message.serial, message.policy)
    case 'listener':
      if (gate === undefined || socket === undefined) throw new Error('a socket too early or lost')
      await gate.add(message.listener, socket)
      return await send({ type: 'serving', serial: message.serial })
    case 'pinned':
      pinsAsked.get(message.serial)?.(message.ok)
      return
    case 'seen':
      gate?.seen(message.serial, message.found)
      return
    case 'ping':
      if (gate !== undefined) {
        await send({ type: 'pong', serial: message.serial, stats: gate.stats() })
      }
      return
    case 'stop':
      await gate?.stop()
      process.exit(0)
  }
}

// Nothing of the environment is needed; whatever is there is none of the gate's business.
for (const name of Object.keys(process.env)) Reflect.deleteProperty(process.env, name)
process.title = 'agentjail-gate'
process.umask(0o077)
// From the terminal these go to the whole group; the warden decides when the gate ends.
for (const signal of ['SIGINT', 'SIGQUIT', 'SIGHUP', 'SIGTSTP', 'SIGTTIN', 'SIGTTOU'] as const) {
  process.on(signal, () => undefined)
}
process.on('uncaughtException', fatal)
process.on('unhandledRejection', fatal)
process.on('disconnect', () => {
  process.exit(0)
})
process.on('message', (message: ToGate, socket: unknown) => {
  handle(message, socket).catch(fatal)
})
if (process.send === undefined) {
  process.stderr.write('agentjail: the gate is started by agentjail itself, not by hand\n')
  process.exit(2)
}
