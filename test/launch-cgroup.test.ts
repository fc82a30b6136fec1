/**
 * Limits by control groups of version 2, whose controllers a machine that mounts version 1 cannot have: on directories
 * that stand for them. What of the kernel they lack (Documentation/admin-guide/cgroup-v2.rst): it fills a new group with
 * its files, hands a controller down only where `cgroup.subtree_control` of every group above names it, and lets a group
 * be removed with its files, once it has no process.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { ensureSocketGroup, prepareCgroup } from '../lib/launch/cgroup.js'

const limits = { pids: 5, memory: 64 * 1024 * 1024, cpu: 0.5 }

/** A root of version 2, and the group of jail `test` as the kernel makes it. */
function hierarchy(t: Test): { root: string; at: string; read: (file: string) => string } {
  const root = mkdtempSync('/var/tmp/agentjail-cgroup-')
  t.teardown(() => rmSync(root, { recursive: true }))
  writeFileSync(`${root}/cgroup.controllers`, 'cpu memory pids\n')
  writeFileSync(`${root}/cgroup.procs`, '')
  const at = `${root}/agentjail/test`
  mkdirSync(at, { recursive: true })
  for (const [file, text] of Object.entries({
    'memory.swap.max': 'max\n',
    'pids.events': 'max 0\n',
    'memory.events': 'low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\noom_group_kill 0\n',
    'cpu.stat': 'usage_usec 1\nnr_periods 3\nnr_throttled 2\nthrottled_usec 0\n',
  }))
    writeFileSync(`${at}/${file}`, text)
  return { root, at, read: (file) => readFileSync(`${root}/agentjail/${file}`, 'utf8') }
}

t.test('what is asked of the kernel, and what it counted', async (t) => {
  const { root, at, read } = hierarchy(t)
  const group = prepareCgroup('test', limits, root)
  t.equal(
    readFileSync(`${root}/cgroup.subtree_control`, 'utf8'),
    '+pids +memory +cpu',
    'handed down to agentjail',
  )
  t.equal(read('cgroup.subtree_control'), '+pids +memory +cpu', 'and from there to the jail')
  // Two of the processes are agentjail's own.
  t.equal(read('test/pids.max'), '7')
  t.equal(read('test/memory.max'), String(limits.memory))
  t.equal(read('test/memory.swap.max'), '0', 'no way out into swap')
  t.equal(read('test/cpu.max'), '50000 100000')
  t.same(group?.join, [`${at}/cgroup.procs`], 'one group for all')
  t.same(group?.hit(), [], 'what was counted before is not this run’s')
  writeFileSync(`${at}/pids.events`, 'max 3\n')
  writeFileSync(
    `${at}/memory.events`,
    'low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n',
  )
  writeFileSync(`${at}/cpu.stat`, 'usage_usec 9\nnr_periods 9\nnr_throttled 6\nthrottled_usec 1\n')
  t.same(group?.hit(), [
    'limits.pids: 3 new processes or threads were refused, at 5',
    'limits.memory: 1 process was killed, at 64MiB',
    'limits.cpu: held back in 4 periods of 100 ms, at 0.5 CPUs',
  ])
  // As the kernel does with the last process.
  rmSync(at, { recursive: true })
  mkdirSync(at)
  rmSync(`${root}/agentjail/cgroup.subtree_control`)
  await group?.remove()
  t.notOk(existsSync(`${root}/agentjail`), 'nothing is left')
})

t.test(
  'the group by which the firewall knows the jail stays for whoever holds the rules',
  async (t) => {
    const { root, at } = hierarchy(t)
    t.equal(ensureSocketGroup('agentjail/test', root), `${at}/cgroup.procs`)
    const group = prepareCgroup('test', { pids: 5 }, root, 'agentjail/test')
    rmSync(at, { recursive: true })
    mkdirSync(at)
    await group?.remove()
    t.ok(existsSync(at))
  },
)

t.test('where the controllers are not to be had, the launch is told', async (t) => {
  const { root } = hierarchy(t)
  // In a container whose group has processes the kernel says EBUSY; here, that it is no file.
  mkdirSync(`${root}/cgroup.subtree_control`)
  t.throws(() => prepareCgroup('test', limits, root), { code: 'EISDIR' })
  t.equal(prepareCgroup('test', {}, root), undefined, 'no limit needs none')
})
