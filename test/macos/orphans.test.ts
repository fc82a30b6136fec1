/** A command of macOS that goes on when the agentjail that started it was killed: what clears up has the last word. */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { revoke, underLicence } from '../../lib/system/licence.js'
import { realSystem } from '../../lib/system/real.js'
import { nothingLeft, silence } from '../scenarios/host.js'
import { openMacHost } from './mac-host.js'
import { until } from './mac-root.js'

t.setTimeout(600_000)

/** Whether someone waits for those who hold a licence that begins so. */
function isWaitedFor(path: string): boolean {
  const waiting = [...readFileSync('/proc/locks', 'utf8').matchAll(/-> FLOCK +\S+ +WRITE (\d+)/g)]
  return waiting.some(([, pid = '']) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0')
      return words.some((word) => word.startsWith(path))
    } catch {
      return false
    }
  })
}

t.test('whoever clears up waits for it, or makes it too late', async (t) => {
  const host = await openMacHost()
  const { mac } = host
  t.teardown(() => {
    mac.close()
  })
  const cases: [what: string, which: (command: string) => boolean][] = [
    ['an entry of an access list', (command) => / \+a user:aj-faults /.test(command)],
    ['the first rules', (command) => /pfctl .*-f \/var\/run/.test(command)],
    ['pflog0', (command) => /ifconfig pflog0 create/.test(command)],
  ]
  for (const [what, which] of cases) {
    let held = ''
    let release = (): void => undefined
    const settled = new Promise<void>((resolve) => (release = resolve))
    mac.beforeCommand = (argv) => {
      const command = argv.join(' ')
      if (held !== '' || !which(command)) return undefined
      held = command
      return settled
    }
    const jail = host.start(...host.prefix, '--', ...host.restless)
    await until(`${what} on its way`, () => held !== '')
    jail.kill('SIGKILL')
    await jail.ended
    let isCleared = false
    const cleared = host.agentjail('gc').then((end) => {
      isCleared = true
      return end
    })
    await until(`gc after ${what}`, () => isCleared || isWaitedFor('/var/run/agentjail/'))
    mac.beforeCommand = undefined
    release()
    await new Promise((resolve) => setImmediate(resolve))
    t.match(await cleared, { code: 0 }, what)
    await nothingLeft(t, host, what)
    await silence(t, host, what)
  }
})

t.test('licences, by the real perl', async (t) => {
  const dir = mkdtempSync(join(tmpdir(), 'agentjail-licence-'))
  t.teardown(() => {
    rmSync(dir, { recursive: true })
  })
  const [file, mark] = [join(dir, 'licence'), join(dir, 'mark')]
  const system = realSystem()
  const under = (script: string) => {
    const [program, ...args] = underLicence(file, ['/bin/sh', '-c', script])
    return spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] })
  }
  const codeOf = async (script: string): Promise<unknown> => (await once(under(script), 'close'))[0]
  t.equal(await codeOf(`touch ${mark}`), 2, 'without one')
  writeFileSync(file, 'shares\n')
  t.equal(await codeOf('exit 7'), 7)
  t.equal(await codeOf('kill -9 $$'), 1)
  const running = under(`echo started; read line; touch ${mark}`)
  const ended = once(running, 'close')
  await once(running.stdout, 'data')
  const order: string[] = []
  const revoked = revoke(system, file).then((place) => order.push('revoked', place))
  await until('it waits', () => isWaitedFor(file))
  order.push(existsSync(mark) ? 'too early' : 'held')
  running.stdin.end('go\n')
  await Promise.all([revoked, ended])
  t.strictSame(order, ['held', 'revoked', `${file}.revoked`])
  t.ok(existsSync(mark), 'what held it was done first')
  rmSync(mark)
  t.equal(await codeOf(`touch ${mark}`), 2)
  t.notOk(existsSync(mark), 'nothing starts afterwards')
  t.equal(await revoke(system, file), `${file}.revoked`, 'once more')
})
