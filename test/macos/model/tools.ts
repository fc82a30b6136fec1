/** Chooses the modelled command by the name it is called by. */
import { pfctl } from './pfctl.js'
import { directoryTool } from './directory.js'
import { launchctl } from './launchd.js'
import { smallTool } from './small.js'
import { answer, type Answer, type MacState } from './state.js'

export function runTool(state: MacState, argv: readonly string[], input: string): Answer {
  const [program = '', ...args] = argv
  state.calls.push([...argv])
  const name = program.slice(program.lastIndexOf('/') + 1)
  // A real Mac has each tool in one place: called elsewhere, it is not found.
  if (program.startsWith('/') && places.get(name) !== program)
    return answer(127, '', `${program}: No such file or directory\n`)
  switch (name) {
    case 'pfctl':
      return pfctl(state, args, input)
    case 'launchctl':
      return launchctl(state, args)
    case 'sudo':
      return sudo(state, args, input)
    case 'perl':
      return perl(state, args, input)
    default:
      return directoryTool(state, name, args) ?? smallTool(state, name, args)
  }
}

/** `sudo -n -u NAME -- COMMAND`, from root, who is asked for no password. */
function sudo(
  state: MacState,
  [n, u, name = '', dashes, ...argv]: readonly string[],
  input: string,
): Answer {
  if (n !== '-n' || u !== '-u' || dashes !== '--') return answer(1, '', 'usage: sudo\n')
  if (state.euid !== 0) return answer(1, '', 'sudo: a password is required\n')
  const uid = state.users[name]?.['UniqueID']?.[0]
  if (uid === undefined) return answer(1, '', `sudo: unknown user ${name}\n`)
  state.euid = Number(uid)
  try {
    return runTool(state, argv, input)
  } finally {
    state.euid = 0
  }
}

/** The scripts that agentjail gives to perl here, by what they do. */
function perl(
  state: MacState,
  [e, script = '', dashes, file = '', ...argv]: readonly string[],
  input: string,
): Answer {
  if (e !== '-e' || dashes !== '--')
    return answer(2, '', "Can't open perl script: No such file or directory\n")
  if (script.includes('LOCK_SH'))
    return state.files[file] === undefined
      ? answer(2, '', `${file}: No such file or directory\n`)
      : runTool(state, argv, input)
  if (script.includes('LOCK_EX')) {
    const licence = state.files[file]
    if (licence !== undefined) state.files[`${file}.revoked`] = licence
    Reflect.deleteProperty(state.files, file)
    return answer()
  }
  if (argv.join(' ') !== '/sbin/pfctl -E') return answer(2, '', 'unknown script\n')
  const pid = state.nextPid
  const { code, stdout, stderr } = runTool(state, argv, '')
  const text = `${String(pid)}\n${stderr}`
  state.files[file] = { kind: 'file', text, mode: 0o600, uid: 0, gid: 0 }
  return answer(code, stdout)
}

export const places = new Map(
  [
    '/sbin/pfctl',
    '/sbin/ifconfig',
    '/usr/sbin/tcpdump',
    '/usr/sbin/arp',
    '/usr/sbin/ndp',
    '/usr/bin/dscl',
    '/usr/sbin/sysadminctl',
    '/usr/sbin/dseditgroup',
    '/usr/bin/dsmemberutil',
    '/usr/bin/dscacheutil',
    '/usr/sbin/createhomedir',
    '/usr/bin/id',
    '/bin/launchctl',
    '/usr/bin/sudo',
    '/usr/bin/sandbox-exec',
    '/bin/ps',
    '/bin/chmod',
    '/bin/ls',
    '/usr/sbin/sysctl',
    '/usr/bin/plutil',
    '/usr/bin/perl',
  ].map((path): [string, string] => [path.slice(path.lastIndexOf('/') + 1), path]),
)
