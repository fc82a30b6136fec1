/**
 * Who was denied: from a client's port to its process, and the gate's side of asking.
 * Judges: sockets that child processes of this test really hold.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import t from 'tap'
import { Askers } from '../lib/audit/askers.js'
import { withCaller } from '../lib/audit/fold.js'
import type { Decision } from '../lib/audit/record.js'
import { Clients } from '../lib/gate/clients.js'
import { Callers, commandText, socketInodes } from '../lib/session/callers.js'

const uid = process.getuid?.() ?? 0
const makeCallers = (initPid = process.pid) =>
  new Callers({
    uid,
    initPid: () => initPid,
    scrub: (text) => text.replaceAll('sk-secret', '[KEY]'),
    monotonic: () => performance.now(),
  })

/** A child that holds a socket and says its port; `word` is on its command line. */
const holder = async (word: string, code: string) => {
  const child = spawn(process.execPath, ['-e', code, word], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  return { child, port: Number(line.toString()) }
}
const udp = `const s = require('dgram').createSocket('udp4'); s.bind(0, '127.0.0.1', () => console.log(s.address().port))`
const tcp6 = `require('net').createServer().listen(0, '::1', function () { console.log(this.address().port) })`

const denied: Decision = {
  ...{ verdict: 'deny', reason: 'name-not-granted', layer: 'dns', direction: 'out' },
  ...{ proto: 'udp', name: 'evil.example', port: 53 },
}

t.test('the process that holds the socket, and its command line', async (t) => {
  for (const [proto, code] of [
    ['udp', udp],
    ['tcp', tcp6],
  ] as const) {
    const { child, port } = await holder('sk-secret \u001b[2J', code)
    try {
      const callers = makeCallers()
      t.equal(await callers.seek(proto, port), true, proto)
      const [found] = callers.attribute([{ ...denied, proto, client: port }]) as [Decision]
      t.equal(found.pid, child.pid)
      t.match(found.command, /\[KEY\]/, 'a known key is taken out')
      t.notMatch(found.command, 'sk-secret')
      const [again] = callers.attribute([{ ...denied, proto, client: port }]) as [Decision]
      t.equal(again.pid, undefined, 'told once: the port may be another process’s next')
    } finally {
      child.kill('SIGKILL')
    }
  }
})

t.test('not known: nothing is made up', async (t) => {
  const { child, port } = await holder('', udp)
  try {
    t.equal(await makeCallers(2 ** 30).seek('udp', port), false, 'another network')
    const other = new Callers({
      ...{ uid: uid + 1, scrub: String },
      ...clock(),
      initPid: () => process.pid,
    })
    t.equal(await other.seek('udp', port), false, 'a socket of another user')
  } finally {
    child.kill('SIGKILL')
    await once(child, 'exit')
  }
  const callers = makeCallers()
  t.equal(await callers.seek('udp', port), false, 'closed')
  for (const bad of [0, -1, 65_536, 1.5, '53', null]) t.equal(await callers.seek('udp', bad), false)
  t.equal(await callers.seek('icmp', 1), false)
  const forged = { ...denied, client: port, pid: 1, command: 'init' }
  t.match(callers.attribute([forged]), [{ pid: undefined, command: undefined }], 'the gate’s word')
  t.equal(callers.attribute('x'), 'x')
})

const clock = () => ({ monotonic: () => 0 })

t.test('a gate that asks and asks is looked for at most so often', async (t) => {
  const { child, port } = await holder('', udp)
  try {
    const callers = new Callers({ uid, scrub: String, ...clock(), initPid: () => process.pid })
    let found = 0
    for (let i = 0; i < 200; i++) if (await callers.seek('udp', port)) found++
    t.equal(found, 20)
  } finally {
    child.kill('SIGKILL')
  }
})

t.test('tables of the kernel', (t) => {
  const row = (local: string, owner: number, inode: number) =>
    `  12: ${local} 0100007F:0035 07 00000000:00000000 00:00000000 00000000  ${String(owner)}        0 ${String(inode)} 2 0000000000000000 0`
  const table = [
    '   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops',
    row('0100007F:D431', 64000, 111),
    row('0100007F:D431', 64001, 222),
    row('00000000000000000000000001000000:D431', 64000, 333),
    row('0100007F:D432', 64000, 444),
    row('0100007F:D431', 64000, 0),
  ].join('\n')
  t.same(socketInodes(table, 0xd431, 64000), ['111', '333'])
  t.same(socketInodes(table, 0x35, 64000), [], 'the far end’s port is another thing')
  t.equal(commandText('curl\0-sS\0https://a.example/\0'), 'curl -sS https://a.example/')
  t.end()
})

t.test('the gate waits for the look, not for ever, and not in a flood', async (t) => {
  const asked: number[] = []
  let now = 0
  const clients = new Clients(
    (serial) => asked.push(serial),
    () => now,
  )
  const look = clients.look(denied, 4000)
  t.ok(look, 'the first is looked for')
  t.equal(clients.look(denied, 4001), undefined, 'one alike is answered at once')
  clients.seen(asked[0] ?? 0, true)
  await look
  t.equal(clients.look(denied, 4002), undefined, 'found: it speaks for those alike')
  now = 1_000
  const lost = clients.look(denied, 4003)
  t.ok(lost, 'a second later it is looked for again')
  await lost
  t.pass('an unanswered look is over by itself')
  t.ok(clients.look(denied, 4004), 'not found: the next is another chance')
  let looks = 0
  for (let i = 0; i < 10_000; i++) {
    if (clients.look({ ...denied, name: `n${String(i)}.example` }, 5000) !== undefined) looks++
  }
  t.ok(looks <= 20, `${String(looks)} of 10,000 looked for, the others answered at once`)
})

t.test('alike denials: the first known process is the one that is told', (t) => {
  const known = { ...denied, pid: 7, command: 'curl' }
  t.same(withCaller(denied, known), known)
  t.same(withCaller(known, { ...denied, pid: 8, command: 'wget' }), known)
  t.same(withCaller(denied, denied), denied)
  t.end()
})

t.test('who asked for a granted name: told by its client, or that it was anybody', async (t) => {
  const sent: (readonly [port: number, name: string | undefined])[] = []
  const clients = new Clients(
    (serial, _proto, port, name) => {
      sent.push([port, name])
      queueMicrotask(() => clients.seen(serial, true))
    },
    () => 0,
  )
  await clients.lookGranted('a.example', 'udp', 4000, false)
  t.equal(clients.lookGranted('a.example', 'udp', 4000, false), undefined, 'A and AAAA are one')
  await clients.lookGranted('a.example', 'udp', 4001, false)
  t.strictSame(
    sent.splice(0),
    [
      [4000, 'a.example'],
      [4001, 'a.example'],
    ],
    'each client',
  )
  for (let port = 5000; port < 6000; port++)
    void clients.lookGranted('b.example', 'udp', port, false)
  t.equal(sent.filter(([port]) => port === 0).length, 1, 'those who are not looked for: once')
  t.ok(sent.length <= 10)
  t.ok(clients.look(denied, 4000), 'and a denial is looked for all the same')
  t.end()
})

t.test('an answer that is ready waits less than one that is asked for', async (t) => {
  const clients = new Clients(
    () => undefined,
    () => 0,
  )
  const over: string[] = []
  const asked = clients.lookGranted('a.example', 'udp', 4000, false)
  const ready = clients.lookGranted('b.example', 'udp', 4000, true)
  await Promise.all([asked?.then(() => over.push('asked')), ready?.then(() => over.push('ready'))])
  t.strictSame(over, ['ready', 'asked'])
})

t.test('a refused port is whoever’s asked for its name, or nobody’s', (t) => {
  const askers = new Askers()
  const [curl, wget] = [
    { pid: 7, command: 'curl' },
    { pid: 8, command: 'wget' },
  ]
  askers.add('a.example', curl, 1_000)
  t.equal(askers.of(['a.example'], 900, 1_100), curl)
  t.equal(askers.of(['a.example'], 1_050, 1_100), curl, 'who asked before, and keeps the address')
  t.equal(askers.of(['b.example'], 900, 1_100), undefined)
  t.equal(askers.of(['b.example', 'a.example'], 900, 1_100), curl, 'whichever was meant')
  askers.add('a.example', wget, 1_200)
  t.equal(askers.of(['a.example'], 900, 1_300), undefined, 'one of two')
  t.equal(askers.of(['a.example'], 1_150, 1_300), wget, 'the only one of this time')
  askers.add('a.example', undefined, 1_250)
  t.equal(askers.of(['a.example'], 1_150, 1_300), undefined, 'one of two, whom nobody found')
  t.equal(askers.of(['a.example'], 900, 60_000), undefined, 'long ago')
  for (let n = 0; n < 10_000; n++) askers.add(`n${n}.example`, curl, 1_000)
  t.equal(askers.of(['a.example'], 1_150, 1_300), undefined, 'as many as are remembered')
  t.equal(askers.of(['n9999.example'], 900, 1_100), curl)
  t.end()
})
