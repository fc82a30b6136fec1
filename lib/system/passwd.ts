/**
 * passwd(5), group(5) and subid files as data. Pure.
 */
export interface PasswdEntry {
  readonly name: string
  readonly uid: number
  readonly gid: number
  readonly comment: string
  readonly home: string
  readonly shell: string
}

/** The lines that hold this text: of a file of a thousand accounts, no other is taken apart. */
export function linesWith(text: string, part: string): string[] {
  const lines: string[] = []
  for (let at = text.indexOf(part); at !== -1;) {
    const end = text.indexOf('\n', at)
    lines.push(text.slice(text.lastIndexOf('\n', at) + 1, end === -1 ? undefined : end))
    at = end === -1 ? -1 : text.indexOf(part, end)
  }
  return lines
}

/** Entries that have this field; others, too, perhaps. */
export function entriesWith(text: string, field: string | number): PasswdEntry[] {
  return parsePasswd(linesWith(text, String(field)).join('\n'))
}

export function entryNamed(text: string, account: string): PasswdEntry | undefined {
  return entriesWith(text, account).find(({ name }) => name === account)
}

/** Lines that are not entries are passed over, as getpwent(3) does. */
export function parsePasswd(text: string): PasswdEntry[] {
  return text.split('\n').flatMap((line): PasswdEntry[] => {
    const [name, , uid, gid, comment, home, shell] = line.split(':')
    if (
      name === undefined ||
      shell === undefined ||
      !/^[0-9]+$/.test(uid ?? '') ||
      !/^[0-9]+$/.test(gid ?? '')
    )
      return []
    return [
      { name, uid: Number(uid), gid: Number(gid), comment: comment ?? '', home: home ?? '', shell },
    ]
  })
}

/** Names of groups that list this user as a member (its primary group does not). */
export function groupsOf(text: string, user: string): string[] {
  return linesWith(text, user).flatMap((line): string[] => {
    const [name, , , members] = line.split(':')
    return name !== undefined && (members ?? '').split(',').includes(user) ? [name] : []
  })
}

/** Whether subuid(5) or subgid(5) gives this user a range. */
export function hasSubordinateRange(text: string, user: { name: string; uid: number }): boolean {
  return [user.name, String(user.uid)].some((owner) =>
    linesWith(text, `${owner}:`).some((line) => line.startsWith(`${owner}:`)),
  )
}

/** Whether shadow(5) says that the account expired in the first days of 1970. Day 0 is no date to some programs. */
export function isExpired(shadow: string, name: string): boolean {
  const fields = linesWith(shadow, `${name}:`)
    .map((line) => line.split(':'))
    .find(([entry]) => entry === name)
  return fields?.[7] === '1'
}

/** `1 process (4711)`, `3 processes (first: 4711)`. */
export function processCount(pids: readonly number[]): string {
  const first = String(pids[0] ?? '')
  return pids.length === 1
    ? `1 process (${first})`
    : `${String(pids.length)} processes (first: ${first})`
}
