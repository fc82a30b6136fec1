/**
 * What ends the flows of a relayed UDP grant: the policy, and the gate's own end, in any order and both at once.
 */
import dgram from 'node:dgram'
import { once } from 'node:events'
import t from 'tap'
import { Decisions } from '../lib/gate/decisions.js'
import { relayUdp } from '../lib/gate/udp.js'
import { assemble, cidrGrant, policy } from './gate-kit.js'

async function bound(): Promise<{ socket: dgram.Socket; port: number }> {
  const socket = dgram.createSocket('udp4')
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  return { socket, port: socket.address().port }
}

/** A relay towards a server that answers `got TEXT`, and a client. */
async function prepared() {
  const server = await bound()
  server.socket.on('message', (message, { port, address }) =>
    server.socket.send(`got ${message.toString()}`, port, address),
  )
  const given = policy({ cidrs: [cidrGrant('127.0.0.1/32', server.port, 'udp')] })
  const { names, connections, budgets, update } = assemble(given)
  const decisions = new Decisions(() => Promise.resolve())
  const inside = await bound()
  const parts = { names, connections, budgets, decisions, now: () => performance.now() }
  const served = relayUdp(inside.socket, server.port, parts)
  const client = await bound()
  return { server, client, inside, served, connections, update }
}

/** With a flow through it. */
async function flowing() {
  const { server, client, inside, served, connections, update } = await prepared()
  client.socket.send('hello', inside.port, '127.0.0.1')
  const [answer] = (await once(client.socket, 'message')) as [Buffer]
  const end = () => {
    client.socket.close()
    server.socket.close()
  }
  return { answer: answer.toString(), served, connections, update, end }
}

t.test('the end of the gate closes a flow once, whoever comes first', async (t) => {
  for (const order of ['relay first', 'connections first', 'withdrawn first'] as const) {
    const { answer, served, connections, update, end } = await flowing()
    t.equal(answer, 'got hello', `${order}: relayed`)
    if (order === 'withdrawn first') t.equal(update(policy()), 1, 'the withdrawn flow is cut')
    if (order === 'connections first') connections.cutAll()
    t.doesNotThrow(() => served.close(), order)
    t.doesNotThrow(() => connections.cutAll(), order)
    await new Promise((resolve) => setImmediate(resolve))
    t.equal(connections.size, 0, `${order}: no flow is left`)
    end()
  }
})

t.test('a destination without a route ends the flow, and not the gate', async (t) => {
  const { server, client, inside, served, connections } = await prepared()
  const refused = Object.assign(new Error('connect ENETUNREACH'), { code: 'ENETUNREACH' })
  // As Node does when connect(2) fails: the callback is told, no event comes.
  let tried = 0
  t.intercept(dgram.Socket.prototype, 'connect', {
    value: (_port: number, _address: string, callback: (error: Error) => void) => {
      tried++
      process.nextTick(callback, refused)
    },
  })
  client.socket.send('hello', inside.port, '127.0.0.1')
  const end = Date.now() + 20_000
  while ((tried === 0 || connections.size > 0) && Date.now() < end)
    await new Promise((resolve) => setTimeout(resolve, 5))
  t.equal(tried, 1, 'it was tried')
  t.equal(connections.size, 0, 'no flow is left')
  served.close()
  client.socket.close()
  server.socket.close()
})
