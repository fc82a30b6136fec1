/** agentjail's reference on pf, whoever is killed while it is taken. */
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { setUp, snapshot } from './backend-kit.js'
import { FakeMac } from './model/system.js'
import { reserved } from './rulesets.js'

t.test('pfctl ended between taking a reference and saying so: found by its pid', async (t) => {
  const mac = new FakeMac()
  mac.state.pf.tokens.push({ value: '15000000000000000001', pid: 77, name: 'pfctl' })
  mac.state.pf.enabled = true
  const start = snapshot(mac)
  const journal = '/var/run/agentjail/pf-enable'
  mac.intercept = (argv) => {
    if (argv[0] !== '/usr/bin/perl') return undefined
    mac.intercept = undefined
    void mac.run(argv as [string, ...string[]])
    const file = mac.state.files[journal]
    if (file !== undefined) file.text = file.text.replace(/\n[^]*/, '\n')
    return { code: 1, stdout: '', stderr: '' }
  }
  await t.rejects(setUp(mac).backend.ensureStaticDeny(reserved), { code: 'BACKEND' })
  t.equal(mac.state.pf.tokens.length, 1, "taken back at once; another tool's stays")
  t.equal(snapshot(mac), start)
})

t.test('the script that takes a reference, by the real perl', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-perl-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  const journal = join(dir, 'pf-enable')
  const pretend = join(dir, 'pfctl')
  writeFileSync(pretend, '#!/usr/bin/perl\nprint STDERR "pf enabled\\nToken : 123 $$\\n";\n', {
    mode: 0o755,
  })
  const mac = new FakeMac()
  let script: readonly string[] = []
  mac.intercept = (argv) => {
    if (argv[0] === '/usr/bin/perl') script = argv
    return undefined
  }
  await setUp(mac).backend.ensureStaticDeny(reserved)
  const [perl = '', e = '', text = '', dashes = ''] = script
  const run = () =>
    spawnSync(perl, [e, text, dashes, journal, pretend, '-E'], {
      encoding: 'utf8',
      timeout: 20_000,
    })
  const { pid, status, stderr } = run()
  t.match({ status, stderr }, { status: 0, stderr: '' })
  t.equal(readFileSync(journal, 'utf8'), `${String(pid)}\npf enabled\nToken : 123 ${String(pid)}\n`)
  t.equal(statSync(journal).mode & 0o777, 0o600)
  rmSync(journal)
  symlinkSync('/nonexistent', journal)
  t.not(run().status, 0, 'it follows no link')
})

t.test('a state file that is lost loses no reference', async (t) => {
  const mac = new FakeMac()
  const start = snapshot(mac)
  const lose = (): unknown => Reflect.deleteProperty(mac.state.files, '/var/run/agentjail/pf.json')
  const { backend } = setUp(mac)
  await backend.ensureStaticDeny(reserved)
  const [token] = mac.state.pf.tokens
  lose()
  await setUp(mac).backend.ensureStaticDeny(reserved)
  t.strictSame(mac.state.pf.tokens, [token], 'the next command finds it, and takes no second one')
  lose()
  await setUp(mac).backend.uninstall()
  t.equal(snapshot(mac), start, 'and so does the last one')
})
