/**
 * Who may write a file that has an access list, where its mode alone does not tell: the group's bits of the mode are then
 * the most that any entry gives (acl(5)), not what somebody has.
 * Invariant: pure; a list that is not understood counts as open.
 */

/** <linux/posix_acl_xattr.h>, <linux/posix_acl.h> */
const version = 2
const entrySize = 8
const tags = { owner: 0x01, user: 0x02, group: 0x04, namedGroup: 0x08, mask: 0x10, other: 0x20 }
const writes = 0o2

/**
 * @param list `system.posix_acl_access` as the kernel gives it.
 * @param isTrusted whether a user of that id may write it.
 */
export function othersMayWrite(list: Buffer, isTrusted: (uid: number) => boolean): boolean {
  if (list.length < 4 || (list.length - 4) % entrySize !== 0 || list.readUInt32LE(0) !== version)
    return true
  const entries = Array.from({ length: (list.length - 4) / entrySize }, (_, n) => {
    const at = 4 + n * entrySize
    return {
      tag: list.readUInt16LE(at),
      bits: list.readUInt16LE(at + 2),
      id: list.readUInt32LE(at + 4),
    }
  })
  const mask = entries.find(({ tag }) => tag === tags.mask)?.bits ?? 0o7
  return entries.some(({ tag, bits, id }) => {
    if (tag === tags.owner || tag === tags.mask) return false
    if (tag === tags.other) return (bits & writes) !== 0
    if ((bits & mask & writes) === 0) return false
    return !(tag === tags.user && isTrusted(id))
  })
}
