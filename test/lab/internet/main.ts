/**
 * The process that plays the internet: all servers but DNS. Started by the lab in its namespace.
 * Usage: node main.js (with Node's IPC channel); the CA is in /run/lab.
 */
import { createSocket } from 'node:dgram'
import { marker } from '../capture.js'
import { wire } from '../addresses.js'
import { leafMaker } from '../ca.js'
import { startEvil } from './evil.js'
import type { Calls, FromInternet, ToInternet, Visit } from './protocol.js'
import { startSsh } from './ssh.js'
import { Telegram } from './telegram.js'
import { startWeb } from './web.js'

const send = (message: FromInternet): void => void process.send?.(message)
const telegram = new Telegram()
const visit = (value: Visit) => send({ type: 'visit', visit: value })

const markerSocket = createSocket('udp4')
const calls: { [name in keyof Calls]: (...args: Parameters<Calls[name]>) => void | Promise<void> } =
  {
    pushTelegram: (text, chat) => telegram.push(text, chat),
    mark: (text) =>
      new Promise((resolve, reject) => {
        markerSocket.send(text, marker.port, marker.group, (e) => (e ? reject(e) : resolve()))
      }),
    sync: () => undefined,
  }

process.on('message', (message: ToInternet) => {
  const call = calls[message.call] as (...args: unknown[]) => void | Promise<void>
  Promise.resolve(call(...message.args)).then(
    () => send({ type: 'answer', id: message.id }),
    (error: unknown) => send({ type: 'answer', id: message.id, error: String(error) }),
  )
})
process.on('disconnect', () => process.exit(0))

await Promise.all([
  startEvil(visit),
  startSsh(),
  startWeb(telegram, leafMaker('/run/lab'), visit, (served) => send({ type: 'served', served })),
  new Promise<void>((resolve) => markerSocket.bind(0, wire.internet4, resolve)),
])
markerSocket.setMulticastInterface(wire.internet4)
send({ type: 'ready' })
