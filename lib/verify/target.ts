/**
 * The target beyond the host, a program of its own in a network namespace of its own: takes whatever arrives,
 * TCP, UDP and DNS queries, and reports it. Started with `unshare --net`; talks to `stage.ts` over Node's IPC.
 * Invariant: it believes nothing that it is sent; it keeps a bounded amount, and ends with its parent.
 */
import { createSocket } from 'node:dgram'
import { createServer, connect } from 'node:net'
import dnsPacket from 'dns-packet'

/** Ports of the probes: one that grants usually name, one that none does, and DNS. */
const tcpPorts = [443, 8081] as const
const udpPorts = [443, 8081] as const
const [address = '', host = '', port = '', nonce = '', family = ''] = process.argv.slice(2)
/** Of both families, where the kernel has both. */
const datagrams = family === '4' ? 'udp4' : 'udp6'
/** Characters kept of all that arrives. */
const kept = 1 << 20

let seen = ''
const note = (text: string): void => {
  if (seen.length < kept) seen += text
}

const serveTcp = (port: number): void => {
  createServer((socket) => {
    socket.on('data', (chunk) => {
      note(chunk.toString('latin1'))
      socket.write(chunk)
    })
    socket.on('error', () => undefined)
  }).listen({ port })
}

const serveUdp = (port: number): void => {
  const socket = createSocket({ type: datagrams })
  socket.on('message', (message, from) => {
    note(message.toString('latin1'))
    socket.send(message, from.port, from.address)
  })
  socket.on('error', () => undefined)
  socket.bind(port)
}

/** Answers any name with the target's own address, so that a name that is let through is also resolved. */
const serveDns = (address: string): void => {
  const socket = createSocket({ type: datagrams })
  socket.on('message', (message, from) => {
    note(message.toString('latin1'))
    try {
      const query = dnsPacket.decode(message)
      const question = query.questions?.[0]
      if (question === undefined) return
      note(`dns:${question.name};`)
      const answers =
        question.type === 'A'
          ? [{ type: 'A' as const, name: question.name, ttl: 1, data: address }]
          : []
      const reply = dnsPacket.encode({
        type: 'response',
        id: query.id ?? 0,
        questions: [question],
        answers,
      })
      socket.send(reply, from.port, from.address)
    } catch {
      // No DNS message: a probe's datagram, which is noted already.
    }
  })
  socket.on('error', () => undefined)
  socket.bind(53)
}

/** Sends into the jail's port, again and again: a command that listens there would hear it. */
const knock = (host: string, port: number, text: string): void => {
  const socket = createSocket('udp4')
  socket.on('error', () => undefined)
  setInterval(() => {
    socket.send(text, port, host, () => undefined)
    connect({ host, port }, function (this: { end(text: string): void }) {
      this.end(text)
    }).on('error', () => undefined)
  }, 150)
}

for (const one of tcpPorts) serveTcp(one)
for (const one of udpPorts) serveUdp(one)
serveDns(address)
process.on('message', (request) => {
  if (request === 'knock') knock(host, Number(port), nonce)
  else process.send?.({ seen })
})
process.on('disconnect', () => process.exit(0))
process.send?.('ready')
