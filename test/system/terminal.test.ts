/**
 * `agentjail run` in a terminal emulator: what a person types and sees.
 * Judge: the screen of tmux, whose shell has job control.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { createLab, type Lab } from '../lab/lab.js'

const policy = 'version: 1\nname: term\nnetwork: {allow: [plain.example]}\n'
const look = 'getent hosts evil.example'

/** One tmux of its own in the lab; `screen` is what a person sees. */
let terminals = 0
const openTerminal = async (lab: Lab, columns = 80, rows = 24) => {
  const socket = `t${String(++terminals)}`
  const tmux = (...words: string[]) => lab.run(['tmux', '-L', socket, '-f', '/dev/null', ...words])
  const size = ['-x', String(columns), '-y', String(rows)]
  const shell = "env -C /srv/work 'PS1=ready> ' bash --norc --noprofile -i"
  await tmux('new-session', '-d', ...size, shell)
  const screen = async () => (await tmux('capture-pane', '-p')).stdout.trimEnd()
  return {
    screen,
    /** With the escape sequences of colours. */
    coloured: async () => (await tmux('capture-pane', '-p', '-e')).stdout,
    type: (text: string) => tmux('send-keys', '-l', text),
    press: (...keys: string[]) => tmux('send-keys', ...keys),
    resize: (x: number, y: number) => tmux('resize-window', '-x', String(x), '-y', String(y)),
    /** Waits, at most 30 s. */
    until: async (t: Test, pattern: RegExp, what: string) => {
      let text = ''
      for (let i = 0; i < 200; i++) {
        text = await screen()
        if (pattern.test(text)) break
        await sleep(100)
      }
      t.match(text, pattern, what)
    },
    close: () => tmux('kill-server'),
  }
}

t.test('in a terminal', { timeout: 300_000 }, async (t) => {
  const lab = await createLab()
  t.teardown(() => lab.close())
  lab.writeFile('/srv/work/term.yaml', policy)
  lab.writeFile('/srv/work/long.txt', `first\n${'line\n'.repeat(200)}`)
  const program = join(process.cwd(), 'dist/bin/agentjail.cjs')
  lab.writeFile('/usr/local/bin/agentjail', `#!/bin/sh\nexec node '${program}' "$@"\n`, 0o755)
  const run = 'agentjail run -p ./term.yaml -- '
  const fresh = async (t: Test, columns?: number) => {
    const terminal = await openTerminal(lab, columns)
    t.teardown(() => terminal.close())
    const enter = async (line: string) => {
      await terminal.type(line)
      await terminal.press('Enter')
    }
    await terminal.until(t, /ready>/, 'a shell')
    return { ...terminal, enter }
  }

  await t.test('Ctrl-C reaches the command, once', async (t) => {
    const { enter, press, until } = await fresh(t)
    await enter(
      `${run}bash -c 'trap "echo got-int; exit 7" INT; echo started; while :; do sleep 0.1; done'; echo "code $?"`,
    )
    await until(t, /^started/m, 'runs')
    await press('C-c')
    await until(t, /got-int[^]*code 7/, 'its own trap, its own code')
  })

  await t.test('Ctrl-Z stops it, fg goes on', async (t) => {
    const { enter, press, until, screen } = await fresh(t)
    await enter(`${run}bash -c 'echo started; read -r x; echo "read $x"'`)
    await until(t, /^started/m, 'runs')
    await press('C-z')
    await until(t, /Stopped[^]*ready>$/m, 'the shell has the terminal')
    await enter('echo between')
    await until(t, /^between/m, 'and works')
    const options = { timeout: 20_000 }
    const status = await lab.agentjail(['status'], options)
    t.match(status.stdout, /^term +.*\n  ! it is stopped, as by Ctrl-Z; to go on: fg /m)
    const allow = await lab.agentjail(['allow', 'term', 'plain.example:88'], options)
    t.match(allow, { code: 125, stderr: /jail term is stopped, .*kill -CONT \d+$/m })
    await enter('fg')
    // What is typed before the command has the terminal may be the shell's.
    for (let i = 0; i < 20 && !/^read word/m.test(await screen()); i++) {
      await sleep(500)
      await enter('word')
    }
    await until(t, /^read word/m, 'the command has it again')
  })

  await t.test('stop ends one that is stopped', async (t) => {
    const { enter, press, until } = await fresh(t)
    await enter(`${run}bash -c 'echo started; sleep 300'`)
    await until(t, /^started/m, 'runs')
    await press('C-z')
    await until(t, /Stopped[^]*ready>$/m, 'the shell has the terminal')
    const ended = await lab.agentjail(['stop', 'term'], { timeout: 25_000 })
    t.match(ended, { code: 0, stdout: 'term: stopped\n' }, ended.stderr)
  })

  await t.test('a resize is told', async (t) => {
    const { enter, resize, until } = await fresh(t)
    await enter(`${run}bash -c 'trap "stty size" WINCH; echo started; while :; do sleep 0.1; done'`)
    await until(t, /^started/m, 'runs')
    await resize(100, 30)
    await until(t, /^30 100/m, 'the new size')
  })

  await t.test(
    'denials: live while it prints lines, summary at the end, in 80 columns',
    async (t) => {
      const { enter, until, coloured } = await fresh(t)
      await enter(`clear; ${run}bash -c '${look}; sleep 1; echo later'`)
      await until(
        t,
        /blocked evil\.example[^]*later[^]*or run: agentjail allow/,
        'live, then in short',
      )
      t.match(await coloured(), '\u001b[31mevil.example', 'in colour')
      await enter(`clear; NO_COLOR=1 ${run}${look}`)
      await until(t, /or run: agentjail allow[^]*ready>$/m, 'without')
      t.notMatch(await coloured(), /\u001b\[31m/, 'NO_COLOR')
      await enter(`clear; ${run}${look} 2>err | cat; grep -c $'\\e' err; tail -1 err`)
      await until(
        t,
        /^0\n +or run: agentjail allow/m,
        'piped: no escape sequence, the summary all the same',
      )
      await enter(
        'clear; agentjail status; agentjail logs term --denied | head -2; agentjail run --help | head -5',
      )
      await until(
        t,
        /no jail is running[^]*denied +look-up evil\.example[^]*Run a command in a jail/,
        'views',
      )
    },
  )

  for (const [program, drawn, leave] of [
    ['top', /%Cpu/, ['q']],
    ['vi long.txt', /^first\nline\n/m, ['Escape', ':', 'q', '!', 'Enter']],
  ] as const) {
    await t.test(
      `${program}: drawn, resized, stopped, continued, and denials at its end`,
      async (t) => {
        const { enter, press, resize, until, screen } = await fresh(t)
        await enter(`clear; ${run}bash -c '(sleep 3; ${look}) & ${program}; wait'`)
        await until(t, drawn, 'it draws')
        await resize(100, 30)
        await press('C-z')
        await until(t, /Stopped[^]*ready>$/m, 'the shell has the terminal')
        await enter('clear; fg')
        await until(t, drawn, 'it has it again')
        await sleep(4_000)
        t.notMatch(await screen(), /blocked|evil/, 'nothing is written into it')
        await press(...leave)
        await until(
          t,
          /blocked by policy term:\n +evil\.example[^]*ready>$/m,
          'told when it has ended',
        )
      },
    )
  }

  await t.test('status --watch: in place, in 80 columns, ended by Ctrl-C', async (t) => {
    const jail = lab.spawnAgentjail(['run', '-p', './term.yaml', '--', 'sleep', '1000'], {
      cwd: '/srv/work',
      timeout: 120_000,
    })
    const { enter, press, resize, until, screen } = await fresh(t)
    await enter('clear; agentjail status --watch')
    await until(t, /^term +term/m, 'the jail')
    await resize(120, 30)
    await sleep(2_500)
    const text = await screen()
    t.equal(text.match(/^term +term/gm)?.length, 1, 'drawn over, not under')
    await press('C-c')
    await until(t, /ready>$/m, 'ended')
    await enter("clear; agentjail status | cat; agentjail status | grep -c $'\\e'")
    await until(t, /^term +term[^]*^0$/m, 'piped: no escape sequence')
    jail.kill('SIGTERM')
    await jail.ended
  })

  await t.test('a full-screen program keeps its screen', async (t) => {
    const { enter, press, until, screen } = await fresh(t)
    await enter(`clear; ${run}bash -c '(sleep 2; ${look}; touch /tmp/asked) & less long.txt; wait'`)
    await until(t, /^first\nline\n/m, 'less draws')
    await sleep(4_000)
    t.notMatch(await screen(), /blocked|evil/, 'nothing is written into it')
    await press('Space')
    await until(t, /^line\n/m, 'it still listens')
    await press('q')
    await until(t, /blocked by policy term:\n +evil\.example[^]*ready>$/m, 'told when it has ended')
  })
})
