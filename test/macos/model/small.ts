/** ifconfig, tcpdump, ps, sysctl, chmod's access lists: what agentjail needs of them. */
import { answer, type Answer, type MacState } from './state.js'

export function smallTool(state: MacState, name: string, args: readonly string[]): Answer {
  switch (name) {
    case 'ifconfig':
      return ifconfig(state, args)
    case 'tcpdump': {
      const device = args[args.indexOf('-i') + 1] ?? ''
      if (!state.interfaces.includes(device))
        return answer(1, '', `tcpdump: ${device}: No such device exists\n`)
      return answer(
        0,
        '',
        `listening on ${device}, link-type PFLOG (OpenBSD pflog file), snapshot length 524288 bytes\n`,
      )
    }
    case 'ps':
      if (args.join(' ') === '-A -o pid=,uid=,ruid=,svuid=,stat=')
        return answer(
          0,
          state.processes
            .map(
              ({ pid, uid }) =>
                `${String(pid).padStart(5)} ${String(uid)} ${String(uid)} ${String(uid)} S\n`,
            )
            .join(''),
        )
      if (args[0] === '-o' && args[1] === 'lstart=,stat=' && args[2] === '-p') {
        const found = state.processes.find(({ pid }) => String(pid) === args[3])
        return found === undefined ? answer(1) : answer(0, 'Mon Nov 23 13:00:00 2026     S\n')
      }
      return answer(1, '', `ps: illegal option -- ${args.join(' ')}\n`)
    case 'sysctl':
      return args.join(' ') === '-n kern.bootsessionuuid'
        ? answer(0, `${state.boot}\n`)
        : answer(1, '', 'sysctl: unknown oid\n')
    case 'chmod':
      return chmod(state, args)
    default:
      return answer(127, '', `${name}: command not found\n`)
  }
}

function ifconfig(state: MacState, [device = '', verb]: readonly string[]): Answer {
  if (device === '-l') return answer(0, `${state.interfaces.join(' ')}\n`)
  const exists = state.interfaces.includes(device)
  if (verb === undefined)
    return exists
      ? answer(0, `${device}: flags=141<UP,RUNNING,PROMISC> mtu 33172\n`)
      : answer(1, '', `ifconfig: interface ${device} does not exist\n`)
  if (state.euid !== 0) return answer(1, '', 'ifconfig: SIOCIFCREATE2: Operation not permitted\n')
  if (verb === 'create') {
    if (exists) return answer(1, '', 'ifconfig: SIOCIFCREATE2: File exists\n')
    state.interfaces.push(device)
    return answer()
  }
  if (verb === 'destroy') {
    state.interfaces = state.interfaces.filter((name) => name !== device)
    return answer()
  }
  return answer(1, '', `ifconfig: ${verb}: bad value\n`)
}

function chmod(state: MacState, args: readonly string[]): Answer {
  const [verb = '', entry = '', path = ''] = args[0] === '-R' ? args.slice(1) : args
  const name = /^user:(\S+) /.exec(entry)?.[1]
  if (verb !== '+a' && verb !== '-a')
    return answer(
      1,
      '',
      'usage: chmod [-fhv] [-R [-H | -L | -P]] [-a | +a | =a  [i][# [ n]]] mode|entry file ...\n',
    )
  if (name === undefined || state.users[name] === undefined)
    return answer(1, '', `chmod: Unable to translate '${name ?? ''}' to a UID/GID\n`)
  const list = state.acls[path] ?? []
  if (verb === '-a') {
    if (!list.includes(entry)) return answer(1, '', `chmod: No matching ACL entry: ${path}\n`)
    state.acls[path] = list.filter((each) => each !== entry)
  } else if (!list.includes(entry)) state.acls[path] = [...list, entry]
  return answer()
}
