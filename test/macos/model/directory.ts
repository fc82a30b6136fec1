/** dscl, sysadminctl, dseditgroup, dsmemberutil, createhomedir, id: accounts, and how they lie about them. */
import { answer, type Answer, type MacState } from './state.js'

type DirectoryRecord = Record<string, string[]>

export function directoryTool(
  state: MacState,
  name: string,
  args: readonly string[],
): Answer | undefined {
  switch (name) {
    case 'dscl':
      return dscl(state, args)
    case 'sysadminctl':
      return sysadminctl(state, args)
    case 'dseditgroup':
      return dseditgroup(state, args)
    case 'dsmemberutil': {
      const group = args[args.indexOf('-G') + 1] ?? ''
      const user = args[args.indexOf('-U') + 1] ?? ''
      // staff is computed: every local account is in it, whatever its records say.
      const member =
        group === 'staff' || (state.groups[group]?.['GroupMembership'] ?? []).includes(user)
      return answer(
        0,
        member ? 'user is a member of the group\n' : 'user is not a member of the group\n',
      )
    }
    case 'dscacheutil':
      return answer()
    case 'createhomedir': {
      const user = args[args.indexOf('-u') + 1] ?? ''
      const home = state.users[user]?.['NFSHomeDirectory']?.[0]
      if (home !== undefined && state.files[home] === undefined)
        state.files[home] = {
          kind: 'directory',
          text: '',
          mode: 0o755,
          uid: Number(state.users[user]?.['UniqueID']?.[0]),
          gid: 20,
        }
      return answer(0, `creating home directories for (mac.local)\ncreated (${home ?? ''})\n`)
    }
    case 'id': {
      const user = state.users[args[1] ?? '']
      return user === undefined
        ? answer(1, '', `id: ${args[1] ?? ''}: no such user\n`)
        : answer(0, `${user['UniqueID']?.[0] ?? ''}\n`)
    }
    default:
      return undefined
  }
}

const notFound = answer(56, '', '<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)\n')
const refused = (verb: string): Answer =>
  answer(
    40,
    '',
    `<main> ${verb} status: eDSPermissionError\n<dscl_cmd> DS Error: -14120 (eDSPermissionError)\n`,
  )

function dscl(state: MacState, args: readonly string[]): Answer {
  const [node, rawVerb = '', path = '', key, ...values] = args
  if (node !== '.') return answer(1, '', `Cannot open remote host, error: DSOpenDirServiceErr\n`)
  const verb = rawVerb.replace(/^-/, '')
  const [, kind = '', name] = path.split('/')
  const records = kind === 'Users' ? state.users : kind === 'Groups' ? state.groups : undefined
  if (records === undefined)
    return answer(56, '', `<dscl_cmd> DS Error: -14136 (eDSRecordNotFound)\n`)
  if (verb === 'list') {
    const lines = Object.keys(records)
      .sort()
      .flatMap((each) => {
        if (key === undefined) return [each]
        const found = records[each]?.[key]
        return found === undefined ? [] : [`${each.padEnd(24)} ${found.join(' ')}`]
      })
    return answer(0, lines.map((line) => `${line}\n`).join(''))
  }
  if (name === undefined) return answer(64, '', 'usage: dscl\n')
  const record = records[name]
  if (verb === 'read')
    return record === undefined
      ? notFound
      : read(
          record,
          [key, ...values].filter((each) => each !== undefined),
        )
  if (state.euid !== 0) return refused('attribute')
  switch (verb) {
    case 'create': {
      // Changing who an existing user is needs Full Disk Access; making one does not (before macOS 27).
      const isGuarded =
        record !== undefined &&
        kind === 'Users' &&
        ['UniqueID', 'NFSHomeDirectory'].includes(key ?? '') &&
        record[key ?? ''] !== undefined
      if (!state.quirks.fda && (isGuarded || state.quirks.makingGuarded))
        return refused('attribute')
      const made = record ?? { RecordName: [name], GeneratedUID: [`GUID-${name}`] }
      records[name] = made
      if (key !== undefined) {
        const stolen = key === 'UniqueID' ? state.quirks.uidStolen : undefined
        made[key] = stolen === undefined ? values : [String(stolen)]
      }
      return answer()
    }
    case 'delete':
      if (record === undefined) return notFound
      if (key !== undefined) {
        if (record[key] === undefined)
          return answer(
            185,
            '',
            '<main> delete status: eDSUnknownAttribute\n<dscl_cmd> DS Error: -14009 (eDSUnknownAttribute)\n',
          )
        record[key] =
          values.length === 0 ? [] : record[key].filter((each) => !values.includes(each))
        if (record[key].length === 0) Reflect.deleteProperty(record, key)
        return answer()
      }
      if (kind === 'Users' && state.quirks.deleteHangs)
        return answer(128, '', 'no answer within 10000 ms')
      if (kind === 'Users' && !state.quirks.fda) return refused('delete')
      Reflect.deleteProperty(records, name)
      return answer()
    case 'append':
    case 'merge':
      if (record === undefined) return notFound
      record[key ?? ''] = [
        ...(record[key ?? ''] ?? []),
        ...values.filter((one) => verb === 'append' || record[key ?? '']?.includes(one) !== true),
      ]
      return answer()
    default:
      return answer(64, '', `Invalid command: ${verb}\n`)
  }
}

function read(record: DirectoryRecord, keys: readonly string[]): Answer {
  const wanted = keys.length === 0 ? Object.keys(record) : keys
  const lines = wanted.map((key) => {
    const values = record[key]
    if (values === undefined) return `No such key: ${key}`
    const shown = key === 'IsHidden' ? 'dsAttrTypeNative:IsHidden' : key
    return values.some((value) => value.includes(' '))
      ? `${shown}:\n${values.map((value) => ` ${value}`).join('\n')}`
      : `${shown}: ${values.join(' ')}`
  })
  return answer(0, lines.map((line) => `${line}\n`).join(''))
}

function sysadminctl(state: MacState, args: readonly string[]): Answer {
  const said: string[] = []
  const say = (text: string): void => {
    said.push(`2026-11-23 13:00:00.000 sysadminctl[4242:51] ${text}\n`)
  }
  const valueOf = (option: string): string | undefined => {
    const at = args.indexOf(option)
    return at === -1 ? undefined : args[at + 1]
  }
  const gone = valueOf('-deleteUser')
  if (gone !== undefined) {
    const record = state.users[gone]
    const home = record?.['NFSHomeDirectory']?.[0] ?? ''
    say(`Killing all processes for UID ${record?.['UniqueID']?.[0] ?? ''}`)
    if (!args.includes('-keepHome')) Reflect.deleteProperty(state.files, home)
    if (state.quirks.fda) Reflect.deleteProperty(state.users, gone)
    else say('### Error:-14120 File:/AppleInternal/DSRecord.m Line:563')
    // Exit code 0, whatever happened.
    return answer(0, '', said.join(''))
  }
  const added = valueOf('-addUser')
  if (added !== undefined) {
    if (state.euid !== 0)
      say('sysadminctl should be run as root, or in interactive mode! (Error Code=-60007)')
    else if (state.users[added] !== undefined) say(`User ${added} already exists`)
    else addUser(state, added, { uid: valueOf('-UID'), home: valueOf('-home') }, say)
    return answer(0, '', said.join(''))
  }
  const asked = valueOf('-secureTokenStatus')
  if (asked !== undefined) say(`Secure token is DISABLED for user ${asked}`)
  else say(`unknown arguments ${args.join(' ')}`)
  return answer(0, '', said.join(''))
}

function addUser(
  state: MacState,
  name: string,
  { uid, home }: { uid: string | undefined; home: string | undefined },
  say: (text: string) => void,
): void {
  const line = '-'.repeat(24)
  say(line)
  say(
    'No clear text password or interactive option was specified (adduser, change/reset password will not allow user to use FDE) !',
  )
  say(line)
  say('Creating user record…')
  const taken = new Set(Object.values(state.users).map((record) => Number(record['UniqueID']?.[0])))
  let given = Number(uid ?? 501)
  // Without Full Disk Access what was asked for is not what is given, and the exit code says nothing.
  if (!state.quirks.fda || uid === undefined) for (given = 501; taken.has(given);) given++
  say(`Assigning UID: ${String(given)} GID: 20`)
  if (!state.quirks.fda) say('### Error:-14120 File:/AppleInternal/DSRecord.m Line:563')
  const place = state.quirks.fda ? (home ?? `/Users/${name}`) : `/Users/${name}`
  say(
    home === undefined
      ? `Creating home directory at ${place}`
      : `Home directory is assigned (not created!) at ${home}`,
  )
  state.users[name] = {
    RecordName: [name],
    UniqueID: [String(given)],
    PrimaryGroupID: ['20'],
    NFSHomeDirectory: [place],
    UserShell: ['/bin/zsh'],
    GeneratedUID: [`GUID-${name}`],
    ShadowHashData: ['bplist'],
  }
}

function dseditgroup(state: MacState, args: readonly string[]): Answer {
  const verb = args[args.indexOf('-o') + 1]
  const group = args.at(-1) ?? ''
  switch (verb) {
    case 'create':
      state.groups[group] ??= {
        RecordName: [group],
        PrimaryGroupID: [args[args.indexOf('-i') + 1] ?? ''],
      }
      return answer()
    case 'delete':
      if (state.groups[group] === undefined) return answer(64, '', 'Group not found.\n')
      Reflect.deleteProperty(state.groups, group)
      return answer()
    case 'edit': {
      const add = args.indexOf('-a')
      const user = args[(add === -1 ? args.indexOf('-d') : add) + 1] ?? ''
      const record = state.groups[group]
      if (record === undefined) return answer(64, '', 'Group not found.\n')
      if (state.users[user] === undefined) return answer(64, '', 'Record was not found.\n')
      const others = (record['GroupMembership'] ?? []).filter((name) => name !== user)
      record['GroupMembership'] = add === -1 ? others : [...others, user]
      return answer()
    }
    case 'checkmember': {
      const user = args[args.indexOf('-m') + 1] ?? ''
      const member = (state.groups[group]?.['GroupMembership'] ?? []).includes(user)
      return member
        ? answer(0, `yes ${user} is a member of ${group}\n`)
        : answer(67, `no ${user} is NOT a member of ${group}\n`)
    }
    default:
      return answer(64, '', 'usage: dseditgroup\n')
  }
}
