/**
 * The library as a stranger has it: the packed tarball, installed into a fresh project, type-checked by
 * a consumer of its own, and run as root in the lab.
 */
import { execFileSync, spawnSync } from 'node:child_process'
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { createLab } from './lab/lab.js'
import { root } from './lab/paths.js'

const consumer = `import { JailError, loadPolicy, plan, renderPlan, run } from 'agentjail'
import type { Decision, Ending, Policy } from 'agentjail'

const policy: Policy = await loadPolicy('./policy.yaml')
const planned = await plan({ policy, command: ['true'], name: 'lib' })
console.log('plan', planned.plan.jail, planned.rules.length > 0, renderPlan(planned).includes('plain.example'))

const seen: Decision[] = []
const notices: string[] = []
const fetchBoth = 'curl -sS https://plain.example/lib; curl -sS https://evil.example/; exit 7'
const ending: Ending = await run({
  policy: './policy.yaml',
  name: 'lib',
  command: ['sh', '-c', fetchBoth],
  summary: true,
  onDecision: (decision) => seen.push(decision),
  onNotice: (text) => notices.push(text),
})
console.log('ended', JSON.stringify(ending))
console.log('denied', seen.some(({ verdict, name }) => verdict === 'deny' && name === 'evil.example'))
console.log('told', notices.join('').includes('evil.example'))
for (const bad of [{ policy: 'no-such', command: ['true'] }, { policy: './policy.yaml', command: ['true'], name: '../x' }] as const) {
  try {
    await run(bad)
    console.log('refused nothing')
  } catch (error) {
    console.log('refused', error instanceof JailError && error.code)
  }
}
`
const user = `import { run } from 'agentjail'
run({ policy: 'npm', command: ['true'] }).then(console.log, ({ code }) => console.log('refused', code))
`
const files = {
  'user.js': user,
  'package.json': '{ "name": "consumer", "private": true, "type": "module" }\n',
  'tsconfig.json': `${JSON.stringify({
    compilerOptions: {
      ...{ target: 'es2022', module: 'nodenext', strict: true, noEmitOnError: true },
      ...{ exactOptionalPropertyTypes: true, types: ['node'], skipLibCheck: false },
      typeRoots: [join(root, 'node_modules/@types')],
    },
    files: ['consumer.ts'],
  })}\n`,
  'consumer.ts': consumer,
  'policy.yaml': 'version: 1\nnetwork: { allow: [plain.example] }\n',
}

/** Milliseconds: bounds a hang, judges no speed. */
const timeout = 240_000
t.setTimeout(timeout)

t.test('installed from its tarball', { timeout }, async (t) => {
  // Not below the package: its own node_modules would hide a dependency that is not declared.
  const project = mkdtempSync('/var/tmp/agentjail-library-')
  chmodSync(project, 0o755)
  t.teardown(() => rmSync(project, { recursive: true, force: true }))
  for (const [name, text] of Object.entries(files)) writeFileSync(join(project, name), text)
  const at = { cwd: project, encoding: 'utf8', timeout } as const
  execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', project], {
    ...at,
    cwd: root,
  })
  const tarball = readdirSync(project).find((name) => name.endsWith('.tgz')) ?? ''
  const install = ['install', '--no-audit', '--no-fund', '--prefer-offline', `./${tarball}`]
  const installed = spawnSync('npm', install, at)
  t.equal(installed.status, 0, installed.stderr)
  const inside = readdirSync(join(project, 'node_modules/agentjail'), { recursive: true }).map(
    String,
  )
  t.same(
    inside.filter((path) => /^(?:dist\/(?:test|bench)|lib|test)\b/.test(path)),
    [],
    'no sources and no tests in it',
  )
  const tsc = spawnSync(process.execPath, [join(root, 'node_modules/typescript/bin/tsc')], at)
  t.equal(tsc.status, 0, `the consumer's types: ${tsc.stdout}`)

  const lab = await createLab()
  t.teardown(() => lab.close())
  mkdirSync(`/proc/${String(lab.sides.host)}/root/srv/work`, { recursive: true })
  const result = await lab.run([process.execPath, 'consumer.js'], { cwd: project, timeout: 60_000 })
  t.equal(result.code, 0, result.stderr)
  for (const line of [
    /^plan lib true true$/m,
    /path \/lib/,
    /^ended \{"code":7\}$/m,
    /^denied true$/m,
    /^told true$/m,
    /^refused POLICY_NOT_FOUND$/m,
    /^refused NAME_INVALID$/m,
  ]) {
    t.match(result.stdout, line, result.stderr)
  }
  const user = await lab.run([process.execPath, 'user.js'], { cwd: project, user: 'alice' })
  t.match(user, { code: 0, stdout: /^refused NOT_ROOT$/m }, user.stderr)
})
