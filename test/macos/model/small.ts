/** ifconfig, tcpdump, ps, ls, sysctl, chmod's access lists: what agentjail needs of them. */
import { isIP } from 'node:net'
import { inNet } from './pf/eval.js'
import { answer, type Answer, type MacState } from './state.js'

export function smallTool(state: MacState, name: string, args: readonly string[]): Answer {
  switch (name) {
    case 'ifconfig':
      return ifconfig(state, args)
    case 'tcpdump': {
      if (state.euid !== 0)
        return answer(1, '', 'tcpdump: cannot open BPF device: Permission denied\n')
      const device = args[args.indexOf('-i') + 1] ?? ''
      if (!state.interfaces.includes(device))
        return answer(1, '', `tcpdump: ${device}: No such device exists\n`)
      return answer(
        0,
        '',
        `tcpdump: verbose output suppressed, use -v[v]... for full protocol decode\nlistening on ${device}, link-type ${device === 'pflog0' ? 'PFLOG (OpenBSD pflog file)' : 'EN10MB (Ethernet)'}, snapshot length 524288 bytes\n`,
      )
    }
    case 'ps':
      if (args.join(' ') === '-A -o pid= -o uid= -o ruid= -o svuid= -o stat=')
        return answer(
          0,
          state.processes
            .map(
              ({ pid, uid }) =>
                `${String(pid).padStart(5)} ${String(uid)} ${String(uid)} ${String(uid)} S\n`,
            )
            .join(''),
        )
      if (/^-o lstart= -o stat= -p \d+$/.test(args.join(' '))) {
        const found = state.processes.find(({ pid }) => String(pid) === args.at(-1))
        return found === undefined ? answer(1) : answer(0, 'Mon Nov 23 13:00:00 2026     S\n')
      }
      return answer(1, '', `ps: illegal option -- ${args.join(' ')}\n`)
    case 'ls':
      return list(state, args)
    case 'sysctl':
      return args.join(' ') === '-n kern.bootsessionuuid'
        ? answer(0, `${state.boot}\n`)
        : answer(1, '', 'sysctl: unknown oid\n')
    case 'arp':
      return neighbour(state, 4, args)
    case 'ndp':
      return neighbour(state, 6, args)
    case 'chmod':
      return chmod(state, args)
    default:
      return answer(127, '', `${name}: command not found\n`)
  }
}

function ifconfig(state: MacState, [device = '', verb, ...rest]: readonly string[]): Answer {
  if (device === '-l') return answer(0, `${state.interfaces.join(' ')}\n`)
  const exists = state.interfaces.includes(device)
  if (verb === undefined)
    return exists
      ? answer(0, `${device}: flags=141<UP,RUNNING,PROMISC> mtu 33172\n`)
      : answer(1, '', `ifconfig: interface ${device} does not exist\n`)
  if (state.euid !== 0) return answer(1, '', 'ifconfig: SIOCIFCREATE2: Operation not permitted\n')
  if (verb === 'create') {
    if (exists) return answer(1, '', 'ifconfig: SIOCIFCREATE2: File exists\n')
    if (!/^(pflog|feth)\d+$/.test(device) || state.quirks.noDevices.includes(device))
      return answer(1, '', 'ifconfig: SIOCIFCREATE2: Invalid argument\n')
    state.interfaces.push(device)
    return answer()
  }
  if (!exists) return answer(1, '', `ifconfig: interface ${device} does not exist\n`)
  switch (verb) {
    case 'destroy': {
      if (!/^(pflog|feth)\d+$/.test(device))
        return answer(1, '', 'ifconfig: SIOCIFDESTROY: Invalid argument\n')
      const { [device]: peer, ...peers } = state.peers
      const { [device]: own = [], ...addresses } = state.addresses
      state.interfaces = state.interfaces.filter((name) => name !== device)
      if (peer !== undefined) Reflect.deleteProperty(peers, peer)
      Object.assign(state, { peers, addresses })
      if (own.length > 0) state.neighbours = []
      return answer()
    }
    case 'peer': {
      const [other = ''] = rest
      if (!device.startsWith('feth') || !state.interfaces.includes(other))
        return answer(1, '', 'ifconfig: SIOCSDRVSPEC set peer: No such file or directory\n')
      Object.assign(state.peers, { [device]: other, [other]: device })
      return answer()
    }
    case 'inet':
    case 'inet6': {
      const [address = '', word = '', value = ''] = rest
      const prefix = verb === 'inet' ? prefixOf(value) : Number(value)
      const wanted = verb === 'inet' ? 'netmask' : 'prefixlen'
      if (isIP(address) !== (verb === 'inet' ? 4 : 6) || word !== wanted || !(prefix > 0))
        return answer(1, '', `ifconfig: ${address}: bad value\n`)
      state.addresses[device] = [...(state.addresses[device] ?? []), `${address}/${String(prefix)}`]
      return answer()
    }
    case 'up':
      return answer()
    default:
      return answer(1, '', `ifconfig: ${verb}: bad value\n`)
  }
}

function prefixOf(netmask: string): number {
  const bits = netmask
    .split('.')
    .map((part) => Number(part).toString(2).padStart(8, '0'))
    .join('')
  return /^1+0*$/.test(bits) && bits.length === 32 ? bits.lastIndexOf('1') + 1 : NaN
}

/** `arp -s ADDRESS HARDWARE`, `ndp -s ADDRESS HARDWARE`: of a network that a device of this machine is in. */
function neighbour(state: MacState, family: 4 | 6, args: readonly string[]): Answer {
  const [verb, address = '', hardware = ''] = args
  if (verb !== '-s' || isIP(address) !== family || !/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/.test(hardware))
    return answer(1, '', `usage: ${family === 4 ? 'arp' : 'ndp'}\n`)
  if (state.euid !== 0) return answer(1, '', 'arp: socket: Operation not permitted\n')
  const isNear = Object.values(state.addresses)
    .flat()
    .some((net) => inNet(address, net))
  if (!isNear) return answer(1, '', `cannot intuit interface index and type for ${address}\n`)
  state.neighbours.push(address)
  return answer()
}

/** As the euid says. With -R also what a link that is swapped into the path meanwhile leads to. */
function chmod(state: MacState, args: readonly string[]): Answer {
  if (args.includes('-R') && args.includes('-h'))
    return answer(1, '', 'chmod: the -R and -h options may not be specified together\n')
  const [verb = '', entry = '', path = ''] = args.filter((arg) => !/^-[fhRP]$/.test(arg))
  const name = /^user:(\S+) /.exec(entry)?.[1]
  if (verb !== '+a' && verb !== '-a')
    return answer(
      1,
      '',
      'usage: chmod [-fhv] [-R [-H | -L | -P]] [-a | +a | =a  [i][# [ n]]] mode|entry file ...\n',
    )
  if (name === undefined || state.users[name] === undefined)
    return answer(1, '', `chmod: Unable to translate '${name ?? ''}' to a UID/GID\n`)
  const below = args.includes('-R') ? (state.below[path] ?? []) : []
  const lines = [path, ...below].map((each) => changeList(state, verb, entry, each))
  const stderr = args.includes('-f') ? '' : lines.join('')
  return answer(lines.some((line) => line !== '') ? 1 : 0, '', stderr)
}

function changeList(state: MacState, verb: '+a' | '-a', entry: string, path: string): string {
  const owner = state.owners[path] ?? 501
  const list = state.acls[path] ?? []
  const has = list.includes(entry)
  if (verb === '-a' && !has) return `chmod: No matching ACL entry: ${path}\n`
  if (state.euid !== 0 && state.euid !== owner)
    return `chmod: Failed to set ACL on file '${path}': Operation not permitted\n`
  if (verb === '-a') state.acls[path] = list.filter((each) => each !== entry)
  else if (!has) state.acls[path] = [...list, entry]
  return ''
}

/** `ls -lde PATH`: its access list below it. */
function list(state: MacState, [options, path = '']: readonly string[]): Answer {
  const file = state.files[path]
  if (options !== '-lde') return answer(1, '', 'usage: ls\n')
  if (file === undefined) return answer(1, '', `ls: ${path}: No such file or directory\n`)
  const entries = state.acls[path] ?? []
  const mode = `drwxr-xr-x${entries.length > 0 ? '+' : ''}`
  const lines = entries.map((entry, at) => ` ${String(at)}: ${entry}\n`).join('')
  return answer(0, `${mode} 3 root  wheel  96 Nov 23 13:00 ${path}\n${lines}`)
}
