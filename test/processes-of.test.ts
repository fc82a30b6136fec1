/** Who has a uid, as /proc tells. As root: a child becomes somebody else. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import t from 'tap'
import { findProcesses } from '../lib/system/processes-of.js'
import { until } from './launch-support.js'

const uid = 1_900_099_872

/** A child with that uid as one of its four: real, effective, saved (`setresuid(2)`, 117 and 147). */
async function start(ids: readonly number[]): Promise<{ pid: number; end(): Promise<void> }> {
  const call = process.arch === 'arm64' ? 147 : 117
  const script = `syscall(${String(call)}, ${ids.join(', ')}) == 0 or die $!; $| = 1; print "up\\n"; sleep 60`
  const child = spawn('/usr/bin/perl', ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(child.stdout, 'data')
  return {
    pid: child.pid ?? 0,
    end: async () => {
      child.kill('SIGKILL')
      await once(child, 'exit')
    },
  }
}

t.test('each of its uids counts, and nobody else', async (t) => {
  t.same(findProcesses(uid), [])
  for (const ids of [
    [uid, uid, uid],
    [uid, 0, 0],
    [0, uid, 0],
    [0, 0, uid],
  ]) {
    const child = await start(ids)
    t.same(findProcesses(uid), [child.pid], ids.join(' '))
    t.same(findProcesses(190), [], 'a part of the number is another one')
    await child.end()
    t.same(findProcesses(uid), [], 'ended')
  }
})

t.test('one that ended and was not waited for is none', async (t) => {
  const script = `my $p = fork; if (!$p) { syscall(${process.arch === 'arm64' ? '147' : '117'}, ${String(uid)}, ${String(uid)}, ${String(uid)}); exit } select undef, undef, undef, 0.05 until (readlink "/proc/$p/exe") eq ''; $| = 1; print "$p\\n"; sleep 60`
  const parent = spawn('/usr/bin/perl', ['-e', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  await once(parent.stdout, 'data')
  t.same(findProcesses(uid), [])
  parent.kill('SIGKILL')
  await once(parent, 'exit')
})

t.test('one whose first thread has ended goes on in the others', async (t) => {
  const script = `import ctypes, os, platform, threading, time
os.setresuid(${String(uid)}, ${String(uid)}, ${String(uid)})
threading.Thread(target=time.sleep, args=(60,)).start()
os.write(1, b'up')
# exit(2), of this thread alone.
ctypes.CDLL(None).syscall(93 if platform.machine() == 'aarch64' else 60, 0)`
  const child = spawn('python3', ['-c', script], { stdio: ['ignore', 'pipe', 'inherit'] })
  t.teardown(() => child.kill('SIGKILL'))
  await once(child.stdout, 'data')
  const state = (): string => readFileSync(`/proc/${child.pid ?? 0}/status`, 'latin1')
  await until('its first thread has ended', () => /^State:\tZ/m.test(state()))
  t.same(findProcesses(uid), [child.pid])
})
