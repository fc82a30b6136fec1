/** launchctl: system jobs by plist, with the exit codes of the real one. */
import { answer, type Answer, type MacState } from './state.js'

export function launchctl(state: MacState, [verb = '', ...args]: readonly string[]): Answer {
  const label = (args.at(-1) ?? '').replace(/^system\//, '')
  const job = state.launchd[label]
  const unknown = answer(
    113,
    '',
    `Bad request.\nCould not find service "${label}" in domain for system\n`,
  )
  switch (verb) {
    case 'bootstrap': {
      if (state.euid !== 0)
        return answer(125, '', 'Bootstrap failed: 125: Domain does not support specified action\n')
      const file = state.files[args[1] ?? '']
      const name = /<key>Label<\/key>\s*<string>([^<]+)<\/string>/.exec(file?.text ?? '')?.[1]
      const fits =
        file !== undefined && file.uid === 0 && file.gid === 0 && (file.mode & 0o022) === 0
      if (args[0] !== 'system' || !fits || name === undefined || state.launchd[name] !== undefined)
        return answer(
          5,
          '',
          'Bootstrap failed: 5: Input/output error\nTry re-running the command as root for richer errors.\n',
        )
      if (state.disabled.includes(name))
        return answer(119, '', 'Bootstrap failed: 119: Service is disabled\n')
      state.launchd[name] = { plist: args[1] ?? '', state: 'running' }
      return answer()
    }
    case 'bootout':
      if (label.startsWith('user/')) {
        const uid = Number(label.slice('user/'.length))
        if (!state.processes.some((one) => one.uid === uid))
          return answer(3, '', 'Boot-out failed: 3: No such process\n')
        state.processes = state.processes.filter((one) => one.uid !== uid)
        return answer()
      }
      if (job === undefined) return answer(3, '', 'Boot-out failed: 3: No such process\n')
      Reflect.deleteProperty(state.launchd, label)
      return answer()
    case 'print':
      if (job === undefined) return unknown
      return answer(
        0,
        `system/${label} = {\n\tactive count = 1\n\tpath = ${job.plist}\n\tstate = ${job.state}\n\n\tpid = 4711\n\tlast exit code = (never exited)\n}\n`,
      )
    case 'kickstart':
      if (job === undefined) return unknown
      return answer(0, args.includes('-p') ? 'service spawned with pid: 4711\n' : '')
    case 'enable':
    case 'disable':
      // Kept over restarts.
      state.disabled = state.disabled.filter((name) => name !== label)
      if (verb === 'disable') state.disabled.push(label)
      return answer()
    case 'list': {
      const lines = Object.keys(state.launchd).map((name) => `4711\t0\t${name}\n`)
      return answer(0, `PID\tStatus\tLabel\n${lines.join('')}`)
    }
    default:
      return answer(64, '', `Unrecognized subcommand: ${verb}\n`)
  }
}
