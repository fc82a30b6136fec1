/**
 * The launch on a real terminal, under an interactive shell with job control: what a person types
 * reaches the command once, stops and continues it, and nothing in the jail can type for the person.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { driverPath, jailUid, makePlace, processesOf, specText, tool } from './launch-support.js'

const place = makePlace()
t.teardown(() => place.remove())

/** Plays `steps` [what to type, what must then appear] against bash on a new pseudo-terminal; prints all output. */
const player = `
import json, os, pty, re, select, sys, time
steps = json.loads(sys.argv[1])
pid, fd = pty.fork()
if pid == 0:
    os.execv('/bin/bash', ['bash', '--norc', '--noprofile', '-i'])
text = ''
def leave():
    # bash passes SIGHUP on to its jobs
    os.kill(pid, 1); time.sleep(0.3); os.kill(pid, 9)
def until(pattern):
    global text
    end = time.time() + 15
    while not re.search(pattern, text, re.S):
        if time.time() > end or not select.select([fd], [], [], end - time.time())[0]:
            print('MISSING ' + pattern + ' IN ' + repr(text)); leave(); sys.exit(1)
        try: text += os.read(fd, 4096).decode(errors='replace')
        except OSError: return
all = ''
for send, pattern in steps:
    os.write(fd, send.encode())
    until(pattern)
    all += text; text = ''
print(all)
leave()
`

async function play(
  script: string,
  steps: readonly (readonly [string, string])[],
  without: 'seccomp'[] = [],
): Promise<string> {
  const { stdout } = await promisify(execFile)(
    tool('python3'),
    ['-c', player, JSON.stringify(steps)],
    {
      timeout: 60_000,
      env: {
        PATH: '/usr/bin:/bin',
        PS1: 'prompt> ',
        RUN: `${process.execPath} ${driverPath}`,
        AGENTJAIL_TEST_SPEC: specText(place, ['python3', '-uc', script], { without }),
      },
    },
  ).catch((error: unknown) => {
    throw new Error(String((error as { stdout?: string }).stdout ?? error))
  })
  return stdout
}

/** The terminal echoes what is typed: what is looked for must not be in what was typed. */
const counter = `
import signal, sys, time
def handler(n, frame): print('got', signal.Signals(n).name)
for s in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGCONT, signal.SIGWINCH): signal.signal(s, handler)
print('rea' + 'dy')
for line in sys.stdin: print('line', line.strip())
print('en' + 'd')
`

t.test('Ctrl-C, Ctrl-\\ and Ctrl-D arrive once', async (t) => {
  const text = await play(counter, [
    ['$RUN; echo code $?\n', 'ready'],
    ['\u0003', 'got SIGINT'],
    ['\u001c', 'got SIGQUIT'],
    ['one\n', 'line one'],
    ['\u0004', 'end.*code 0'],
  ])
  t.equal(text.match(/got SIGINT/g)?.length, 1, 'SIGINT once')
  t.equal(text.match(/got SIGQUIT/g)?.length, 1, 'SIGQUIT once')
})

t.test('Ctrl-C ends a command that takes no care of it, as that signal', async (t) => {
  await play(
    `import signal, time; signal.signal(2, signal.SIG_DFL); print('rea' + 'dy'); time.sleep(60)`,
    [
      ['$RUN; echo code $?\n', 'ready'],
      ['\u0003', 'code 99'],
    ],
  )
  t.same(processesOf(jailUid), [])
})

t.test('Ctrl-Z stops the job, fg continues it', async (t) => {
  const text = await play(counter, [
    ['$RUN; echo code $?\n', 'ready'],
    ['\u001a', 'Stopped.*prompt> '],
    ['jobs\n', 'Stopped.*prompt> '],
    ['fg\n', 'got SIGCONT'],
    ['two\n', 'line two'],
    ['\u001a', 'Stopped.*prompt> '],
    ['fg\n', 'got SIGCONT'],
    ['\u0004', 'end'],
  ])
  t.match(text, /Stopped/)
})

t.test('a signal to the warden alone is passed on once', async (t) => {
  const waiter = counter.replace(/^for line.*$/m, 'while True: signal.pause()')
  const text = await play(waiter, [
    ['$RUN &\n', 'ready'],
    ['kill -TERM $!\n', 'got SIGTERM'],
    ['kill -INT $!\n', 'got SIGINT'],
    ['kill -KILL $!\n', 'prompt>'],
  ])
  t.equal(text.match(/got SIGTERM/g)?.length, 1)
})

const typist = `
import fcntl, os
for name, fd in (('stdin', 0), ('tty', os.open('/dev/tty', os.O_RDWR))):
    try:
        for c in b'echo inj' + b'ected\\n': fcntl.ioctl(fd, 0x5412, bytes([c]))
        print(name, 'TYP' + 'ED')
    except OSError as error: print(name, error.strerror)
`

t.test('the jail cannot type into the terminal', async (t) => {
  const closed = await play(typist, [['$RUN; echo code $?\n', 'code \\d']])
  t.match(closed, /stdin Operation not permitted\s+tty Operation not permitted/)
  t.notMatch(closed, /injected/)
  const open = await play(typist, [['$RUN; echo code $?\n', 'code \\d']], ['seccomp'])
  t.notMatch(
    open,
    /stdin Operation not permitted/,
    'the test can fail: without the filter another layer answers',
  )
})
