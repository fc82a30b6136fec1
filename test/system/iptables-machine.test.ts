/**
 * A machine with iptables and ipset and without nft, both variants: setup, doctor, what boot runs, the choice of the
 * backend without being told, uninstall. Judges: the kernel's rules, a connection of a reserved uid, systemd's own check.
 */
import t from 'tap'
import { createLab } from '../lab/lab.js'

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 180_000
t.setTimeout(2 * timeout)

const unit = '/etc/systemd/system/agentjail-deny.service'
/** As a reserved uid, and as anybody. */
const connect = `exec 2>&1; for u in 1900000001 65534; do setpriv --reuid $u --clear-groups perl -e 'use Socket; socket(S, AF_INET, SOCK_STREAM, 0); print connect(S, pack_sockaddr_in(443, inet_aton("198.51.100.30"))) ? "open " : "closed "'; done`

for (const variant of ['iptables-nft', 'iptables-legacy'] as const) {
  t.test(variant, { timeout }, async (t) => {
    const lab = await createLab(variant)
    t.teardown(() => lab.close())
    const pristine = await lab.rules()
    const doctor = async () => {
      const { code, stdout } = await lab.agentjail(['doctor', '--json'], { timeout: 60_000 })
      const found = JSON.parse(stdout) as { name: string; state: string; detail: string }[]
      return { code, found, of: (name: string) => found.find((one) => one.name === name) }
    }
    const reserved = async () => (await lab.run(['sh', '-c', connect])).stdout.trim()

    const fresh = await doctor()
    t.equal(fresh.code, 1)
    t.match(fresh.of('firewall'), { state: 'ok', detail: /iptables/ })
    t.match(fresh.of('owned-tables'), { state: 'ok' })
    t.match(fresh.of('tools'), { state: 'ok', detail: /ipset/ })
    t.match(fresh.of('setup'), { state: 'fail' })
    t.equal(await lab.rules(), pristine, 'looking changes nothing')

    const done = await lab.agentjail(['setup'], { timeout: 60_000 })
    t.equal(done.code, 0, done.stdout + done.stderr)
    t.notMatch(done.stdout, /done .*packages/, 'nothing is installed')
    t.equal(await reserved(), 'closed open')
    const set = await doctor()
    t.equal(set.code, 0, JSON.stringify(set.found.filter(({ state }) => state !== 'ok')))

    const text = lab.readFile(unit)
    const verified = await lab.run(['systemd-analyze', 'verify', unit])
    t.notMatch(verified.stderr, /agentjail-deny\.service/, 'systemd has nothing to say of it')
    const starts = text.split('\n').flatMap((line) => /^ExecStart=(.*)$/.exec(line)?.[1] ?? [])
    t.equal(starts.length, 2, 'both families')
    t.notMatch(text, /nft\b/)
    const flush = ['filter', 'security', 'nat'].flatMap((table) =>
      ['iptables', 'ip6tables'].flatMap((tool) => [
        `${tool} -t ${table} -F`,
        `${tool} -t ${table} -X`,
      ]),
    )
    await lab.run(['sh', '-ec', flush.join('\n')])
    t.equal(await reserved(), 'open open', 'as after a boot without the unit')
    t.match((await doctor()).of('setup'), { state: 'fail', detail: /static deny in force/ })
    const boot = await lab.run(['sh', '-ec', starts.join('\n')])
    t.equal(boot.code, 0, boot.stderr)
    t.equal(await reserved(), 'closed open', 'what boot runs closes it')
    t.match((await doctor()).of('setup'), { state: 'ok' })
    t.equal((await lab.run(['sh', '-ec', starts.join('\n')])).code, 0, 'twice does no harm')
    t.equal(await reserved(), 'closed open')

    lab.writeFile(
      '/etc/agentjail/policies/p.yaml',
      'version: 1\nnetwork: { allow: [plain.example] }\n',
    )
    const args = ['run', '-q', '-p', '/etc/agentjail/policies/p.yaml', '--isolation', 'uid', '--']
    const run = await lab.agentjail([...args, 'curl', '-sS', 'https://plain.example/it'], {
      cwd: '/srv',
    })
    t.match(run.stdout, /path \/it/, run.stderr)
    t.match(await lab.rules(), /-A OUTPUT -j AGENTJAIL/)

    const gone = await lab.agentjail(['uninstall', '--purge'], { timeout: 60_000 })
    t.equal(gone.code, 0, gone.stderr)
    t.equal(await lab.rules(), pristine, 'the rules are as before')
    t.throws(() => lab.readFile('/etc/agentjail/static-deny.iptables'), { code: 'ENOENT' })
    t.throws(() => lab.readFile(unit), { code: 'ENOENT' })
  })
}
